"""Multiple-choice questions become questions that stand alone."""

from __future__ import annotations

from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from ray_pipeline.llm.asking import AnswerError, Llm
from ray_pipeline.stage import AskStage, Drop, Expand, Row
from ray_pipeline.stages.questions import choices
from ray_pipeline.stages.questions.rewriting import (
    RewriteConfig,
    converted_rows,
    draft_without_options,
    unasked,
)
from ray_pipeline.stages.text.answers import Check, tidy_question


class MultipleChoice(AskStage):
    """Asks a model for a stand-alone question to replace the stem and its options.

    Reads the columns of ``match-choices``. Rows without choices pass unchanged. A stem that
    ``fill-in-blank`` has just turned into a question is kept, so it is not paid for twice.
    """

    name = "multiple-choice"
    reads = {
        "question": pa.string(),
        "answer": pa.string(),
        "choices": pa.list_(pa.string()),
    }
    writes = {
        "question": pa.string(),
        "original_question": pa.string(),
        "note": pa.string(),
    }
    export = "converted_mcq.csv"

    class Config(RewriteConfig):
        prompt: str = Field(
            "multiple_choice", description="prompt file: its name without the suffix, or a path"
        )
        rewrite: Literal["all", "when_needed"] = Field(
            "all",
            description="which stems are rewritten; all: every stem; when_needed: only stems "
            "that do not end with a question mark or that refer to the options",
        )
        true_false: str = Field(
            "True or false: {stem}",
            description="template of the question made from a statement with the options True "
            "and False; no model is asked, because rewording could change whether the statement "
            "is true",
        )
        yes_no: str = Field(
            "Yes or no: {stem}", description="the same for a statement with the options Yes and No"
        )

        @field_validator("true_false", "yes_no")
        @classmethod
        def _has_stem(cls, template: str) -> str:
            if "{stem}" not in template:
                raise ValueError("must contain {stem}")
            return template

    config: Config

    variables = ("question", "options", "answer", "draft")

    async def ask(self, row: Row, llm: Llm) -> Row | Drop | Expand:
        """Return the row with a question that needs no options; ask the model if necessary."""
        parsed = choices.parse(row["question"])
        if not row["choices"] or parsed is None:
            return row
        changed = {**row, "original_question": row.get("original_question") or row["question"]}
        question = self._without_asking(row, parsed)
        if question is not None:
            return {**changed, "question": question}
        stem = parsed.stem
        check, draft = self._check(stem, row["answer"]), draft_without_options(stem)
        values = {"question": stem, "options": row["choices"], "answer": row["answer"]}
        try:
            found = await llm(self.prompt, check=check, draft=draft, **values)
        except AnswerError as error:
            by_rule = unasked(draft, check)
            what = "kept the stem" if by_rule in (None, stem) else "converted by rule"
            return {**self.keep(changed, what, error), "question": by_rule or stem}
        return {**changed, "question": tidy_question(found.text)}

    def _without_asking(self, row: Row, parsed: choices.MultipleChoice) -> str | None:
        """The stand-alone question if the model is not needed; else None."""
        stem = parsed.stem
        stands_alone = stem.endswith("?") and not choices.refers_to_options(stem)
        if choices.is_true_false(row["choices"]):
            return stem if stem.endswith("?") else self._as_statement(stem, row["choices"])
        if stands_alone and (self.config.rewrite == "when_needed" or row.get("original_question")):
            return stem
        return None

    def _as_statement(self, stem: str, options: list[str]) -> str:
        if stem.lower().startswith(("true or false", "yes or no")):
            return stem
        true_false = choices.normalise(options[0]) in ("true", "false")
        template: str = self.config.true_false if true_false else self.config.yes_no
        return template.replace("{stem}", stem)

    def _check(self, stem: str, answer: str) -> Check:
        usable = self.config.check(stem, answer)

        def check(text: str) -> str | None:
            if choices.refers_to_options(text) or choices.parse(text) is not None:
                return "The question must not mention the options: ask it without them."
            return usable(text)

        return check

    def exported(self, rows: pa.Table) -> pa.Table:
        """The rows that were converted, before and after."""
        return converted_rows(rows.filter(pc.is_valid(rows["choices"])))
