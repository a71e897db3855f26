"""Fill-in-the-blank sentences become questions."""

from __future__ import annotations

import pyarrow as pa
from pydantic import Field

from ray_pipeline.llm.asking import AnswerError, Llm
from ray_pipeline.stage import AskStage, Drop, Expand, Row
from ray_pipeline.stages.questions import choices
from ray_pipeline.stages.questions.rewriting import (
    RewriteConfig,
    converted_rows,
    draft_of_blank,
    unasked,
)
from ray_pipeline.stages.text.answers import has_blank, tidy_question


class FillInBlank(AskStage):
    """Turns ``The capital of France is ____`` into a question with the row's answer.

    Rows without a blank (``__`` or longer) pass unchanged. The options of a multiple-choice
    question are not shown to the model, and are appended to the new question.
    """

    name = "fill-in-blank"
    reads = {"question": pa.string(), "answer": pa.string()}
    writes = {
        "question": pa.string(),
        "original_question": pa.string(),
        "note": pa.string(),
    }
    export = "fitb_rephrased.csv"

    class Config(RewriteConfig):
        prompt: str = Field(
            "fill_in_blank", description="prompt file: its name without the suffix, or a path"
        )

    config: Config

    variables = ("question", "answer", "draft")

    async def ask(self, row: Row, llm: Llm) -> Row | Drop | Expand:
        """Ask the model to turn the sentence with a blank into a question."""
        question, answer = row["question"], row["answer"]
        parsed = choices.parse(question)
        stem, options = (question, "") if parsed is None else _split(question, parsed)
        if not has_blank(stem):
            return row
        if parsed is not None:
            answer = _option_text(answer, parsed.options)
        check, draft = self.config.check(stem, answer), draft_of_blank(stem)
        converted = {**row, "original_question": row.get("original_question") or question}
        try:
            found = await llm(self.prompt, check=check, question=stem, answer=answer, draft=draft)
        except AnswerError as error:
            by_rule = unasked(draft, check)
            if by_rule is None:
                return self.keep(row, "kept the old question", error)
            converted = self.keep(converted, "converted by rule", error)
            return {**converted, "question": by_rule + options}
        return {**converted, "question": tidy_question(found.text) + options}

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
