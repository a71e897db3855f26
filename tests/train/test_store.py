"""A saved model says itself where its answers end, for whatever runs it."""

from __future__ import annotations

from pathlib import Path

from support.tiny_models import tiny_model, word_tokenizer
from transformers import GenerationConfig

from ray_pipeline.core.storage import Storage
from ray_pipeline.models.text import TEXT_FILE, TextConfig, text_config
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


def test_the_note_on_prompts_is_that_of_runs_before(tmp_path: Path) -> None:
    """It is part of the model's revision, on which what a teacher said about rows depends."""
    put_model(Storage(str(tmp_path)), "m", tiny_model(), word_tokenizer(False), TextConfig())
    note = (tmp_path / "models/m" / TEXT_FILE).read_text()
    assert note == (
        '{"style":"auto","system":null,"prompt":"Question: {question}\\nAnswer:",'
        '"answer":" {answer}","question_column":"question","answer_column":"answer",'
        '"max_tokens":512,"overlong":"cut_answer"}'
    )
    assert TextConfig.model_validate_json(note) == TextConfig()
