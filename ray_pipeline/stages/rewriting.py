"""What the stages that rewrite questions have in common."""

from __future__ import annotations

from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ray_pipeline.llm.asking import AnswerError
from ray_pipeline.rows import data_columns
from ray_pipeline.stage import AskStageConfig, Row
from ray_pipeline.stages.answer_checks import Check, question_check


class RewriteConfig(AskStageConfig):
    """Configuration of a stage that has questions rewritten."""

    llm: str = Field("formal", description="the model that rewrites: a name under `llms`")
    if_unusable: Literal["fail", "keep"] = Field(
        "fail",
        description="what becomes of a row for which no usable question came: it fails; or it is "
        "kept with the draft made by rule if that is usable, else with its old question, and says "
        "so in `note`",
    )
    min_shared_words: float = Field(
        0.6,
        ge=0,
        le=1,
        description="share of the old question's content words that the new one must keep: a "
        "small model likes to ask about something else",
    )
    max_growth: float = Field(
        1.5, ge=1, description="longest new question, as a multiple of the old one's characters"
    )

    def check(self, original: str, answer: str) -> Check:
        """What makes a question that replaces ``original`` unusable."""
        # Short questions may grow by more than their share: "It is ___." needs words.
        max_chars = max(int(len(original) * self.max_growth), len(original) + 40)
        return question_check(original, answer, self.min_shared_words, max_chars)


def unasked(draft: str, check: Check) -> str | None:
    """The draft, where it may stand in for the question that no model gave; else None."""
    return draft if check(draft) is None else None


def add_note(row: Row, stage: str, what: str, error: AnswerError) -> str:
    """The row's notes with one more: what ``stage`` did instead, because of ``error``."""
    return "; ".join(filter(None, (row.get("note"), f"{stage}: {what}: {error}")))


def converted_rows(rows: pa.Table) -> pa.Table:
    """The rows with an ``original_question``: it, the question and answer, the other columns."""
    first = ["row_id", "original_question", "question", "answer"]
    others = [column for column in data_columns(rows) if column not in first]
    return rows.filter(pc.is_valid(rows["original_question"])).select(first + others)
