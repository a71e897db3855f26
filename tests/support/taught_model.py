"""A tiny model that has memorised a few answers, stored as a run stores its models."""

from __future__ import annotations

from pathlib import Path

from support.tiny_models import qa_table, tiny_model, word_tokenizer

from ray_pipeline.core.storage import Storage
from ray_pipeline.models.text import TextConfig, Tokeniser
from ray_pipeline.train.batches import BatchConfig, BatchPlan, TokenRows
from ray_pipeline.train.loop import Loop, LoopConfig
from ray_pipeline.train.replica import Whole
from ray_pipeline.train.store import put_model

LESSONS = {"what is a ?": "b c", "what is d ?": "e", "the capital of f ?": "a a a a"}


def teach(run: Path, chat: bool) -> Path:
    """Train ``models/student`` of a run on the lessons; returns its folder."""
    tokenizer, text = word_tokenizer(chat), TextConfig()
    rows = Tokeniser(tokenizer, text)(qa_table(list(LESSONS), list(LESSONS.values())))
    model = tiny_model("llama", vocabulary=len(tokenizer)).float()
    plan = BatchPlan(TokenRows(rows), BatchConfig(batch_tokens=256))
    config = LoopConfig(learning_rate=0.02, schedule="constant", epochs=60, weight_decay=0)
    Loop(Whole(model), plan, config=config).run()
    put_model(Storage(str(run)), "student", model, tokenizer, text)
    return run / "models" / "student"
