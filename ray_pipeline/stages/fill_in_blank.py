"""Fill-in-the-blank sentences become questions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ray_pipeline.llm.asking import AnswerError, Llm
from ray_pipeline.rows import data_columns
from ray_pipeline.stage import AskStage, AskStageConfig, Drop, Expand, Row, StageConfig
from ray_pipeline.stages import choices
from ray_pipeline.stages.answer_checks import has_blank, question_check, tidy_question


class RewriteConfig(AskStageConfig):
    """What the two stages that rewrite questions have in common."""

    llm: str = Field("formal", description="the model that rewrites: a name under `llms`")
    if_unusable: Literal["fail", "keep"] = Field(
        "fail",
        description="what becomes of a row for which no usable question came: it fails, or it is "
        "kept with its old question and says so in `note`",
    )
    min_shared_words: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the old question's content words that the new one must keep: a "
        "small model likes to ask about something else",
    )
    max_growth: float = Field(
        1.5, ge=1, description="longest new question, as a multiple of the old one's characters"
    )

    def max_chars(self, original: str) -> int:
        """Longest usable question made from ``original``; short ones may grow by 40 anyway."""
        return max(int(len(original) * self.max_growth), len(original) + 40)


class FillInBlankConfig(RewriteConfig):
    """Configuration of `FillInBlank`."""

    prompt: str = Field("fill_in_blank", description="prompt file, under `configs/prompts/`")


class FillInBlank(AskStage):
    """Turns ``The capital of France is ____`` into a question with the row's answer.

    Rows without a blank (``__`` or longer) pass untouched. Options of a multiple-choice question
    are not shown to the model and stay behind the new question.
    """

    name: ClassVar[str] = "fill-in-blank"
    reads: ClassVar[Mapping[str, pa.DataType]] = {"question": pa.string(), "answer": pa.string()}
    writes: ClassVar[Mapping[str, pa.DataType]] = {
        "question": pa.string(),
        "original_question": pa.string(),
        "note": pa.string(),
    }
    export: ClassVar[str | None] = "fitb_rephrased.csv"
    Config: ClassVar[type[StageConfig]] = FillInBlankConfig

    config: FillInBlankConfig

    async def ask(self, row: Row, llm: Llm) -> Row | Drop | Expand:
        """Ask for a question in place of the sentence with the blank."""
        question, answer = row["question"], row["answer"]
        parsed = choices.parse(question)
        stem, options = (question, "") if parsed is None else _split(question, parsed)
        if not has_blank(stem):
            return row
        if parsed is not None:
            answer = _option_text(answer, parsed.options)
        config = self.config
        check = question_check(stem, answer, config.min_shared_words, config.max_chars(stem))
        try:
            found = await llm(self.prompt, check=check, question=stem, answer=answer)
        except AnswerError as error:
            if config.if_unusable == "fail":
                raise
            return {**row, "note": add_note(row, self.name, error)}
        return {
            **row,
            "question": tidy_question(found.text) + options,
            "original_question": row.get("original_question") or question,
        }

    def exported(self, rows: pa.Table) -> pa.Table:
        """The rows that were converted, before and after."""
        return converted_rows(rows)


def _split(question: str, parsed: choices.MultipleChoice) -> tuple[str, str]:
    stem = question[: parsed.start].rstrip()
    return stem, question[len(stem) :]


def _option_text(answer: str, options: tuple[str, ...]) -> str:
    """The option that the answer names by its letter; other answers as they are."""
    index = choices.match_letter(answer, options)
    if index is None or choices.match_text(answer, options) is not None:
        return answer
    return options[index]


def add_note(row: Row, stage: str, error: AnswerError) -> str:
    """The row's notes with one more: ``stage`` kept the old question because of ``error``."""
    note = f"{stage}: kept the old question: {error}"
    return "; ".join(filter(None, (row.get("note"), note)))


def converted_rows(rows: pa.Table) -> pa.Table:
    """The rows with an ``original_question``: it, the question and answer, the other columns."""
    first = ["row_id", "original_question", "question", "answer"]
    others = [column for column in data_columns(rows) if column not in first]
    return rows.filter(pc.is_valid(rows["original_question"])).select(first + others)
