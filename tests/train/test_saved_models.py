"""A saved model says itself where its answers end, for whatever runs it."""

from __future__ import annotations

from pathlib import Path

from train.train_fixtures import tiny_model, word_tokenizer
from transformers import GenerationConfig

from ray_pipeline.storage import Storage
from ray_pipeline.train.model_store import get_model, put_model, text_config
from ray_pipeline.train.tokens import TextConfig


def saved_ends(folder: Path, chat: bool) -> list[int] | int:
    storage = Storage(str(folder))
    put_model(storage, "m", tiny_model(), word_tokenizer(chat), TextConfig())
    assert text_config(get_model(storage, "m")) == TextConfig()
    return GenerationConfig.from_pretrained(get_model(storage, "m")).eos_token_id


def test_the_end_that_training_taught_is_saved_behind_the_models_own(tmp_path: Path) -> None:
    assert saved_ends(tmp_path / "chat", chat=True) == [4, 3]
    assert saved_ends(tmp_path / "plain", chat=False) in (4, [4])
