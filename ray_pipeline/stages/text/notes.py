"""The column `note`: what a stage did instead, where a model gave no usable answer."""

from __future__ import annotations

from ray_pipeline.llm.asking import AnswerError
from ray_pipeline.stage import Row


def add_note(row: Row, stage: str, what: str, error: AnswerError) -> str:
    """The row's notes with one more: what ``stage`` did instead, because of ``error``."""
    return "; ".join(filter(None, (row.get("note"), f"{stage}: {what}: {error}")))
