"""A saved model says itself where its answers end, for whatever runs it."""

from __future__ import annotations

from pathlib import Path

from support.tiny_models import tiny_model, word_tokenizer
from transformers import GenerationConfig

from ray_pipeline.core.storage import Storage
from ray_pipeline.models.text import TextConfig, text_config
from ray_pipeline.rundir.models import get_model
from ray_pipeline.train.store import put_model


def saved_ends(folder: Path, chat: bool) -> list[int] | int:
    storage = Storage(str(folder))
    put_model(storage, "m", tiny_model(), word_tokenizer(chat), TextConfig())
    assert text_config(get_model(storage, "m")) == TextConfig()
    return GenerationConfig.from_pretrained(get_model(storage, "m")).eos_token_id


def test_the_end_that_training_taught_is_saved_behind_the_models_own(tmp_path: Path) -> None:
    assert saved_ends(tmp_path / "chat", chat=True) == [4, 3]
    assert saved_ends(tmp_path / "plain", chat=False) in (4, [4])
