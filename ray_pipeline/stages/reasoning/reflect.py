"""The second stage of reasoning: better thoughts on pairs whose prediction was wrong."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import orjson
import pyarrow as pa
from pydantic import Field

from ray_pipeline.llm.asking import AnswerError, Llm
from ray_pipeline.rundir.layout import SPLIT
from ray_pipeline.stage import AskStage, Drop, Expand, Row, Stage, StageConfig
from ray_pipeline.stages.reasoning.answer_schema import AnswerFields, answer_fields, wrong_answer
from ray_pipeline.stages.reasoning.reflection_text import (
    mentions_being_told,
    similarity,
    without_labels,
)
from ray_pipeline.stages.reasoning.think import Think, model_name
from ray_pipeline.stages.reasoning.validate_pairs import (
    HYPOTHESIS,
    LABEL,
    PAIR,
    PREMISE,
    ValidatePairs,
)

ANALYSIS, IMPROVED = "error_analysis", "improved_reasoning"
#: States of a reflection: written and not yet checked; refused; leads a blind reader to the label.
WRITTEN, REJECTED, ACCEPTED = "written", "rejected", "accepted"

#: The columns of a reflection.
REFLECTION: dict[str, pa.DataType] = {
    "reflection_state": pa.string(),
    ANALYSIS: pa.string(),
    IMPROVED: pa.string(),
    "reflection_model": pa.string(),
    "reflection_tries": pa.int64(),
    "reflection_history": pa.string(),
}


class Reflect(AskStage):
    """Writes an ``error_analysis`` and an ``improved_reasoning`` where the prediction was wrong.

    The model sees the pair, the first reasoning, its label and the true label. Its answer is
    refused, and asked for again at most ``reasks`` times, if the reasoning mentions that it was
    told, or says the same as the first one. An answer with another label than the true one is an
    objection: it is not asked again, and counts for `ChooseReasoning`'s suspected labels. Whether
    the reasoning leads to the label is for `BlindCheck` to say.

    Rows of the test split are never reflected. A second stage of this class, after a blind check,
    tries again where the first was rejected, and shows the model why.

    The prompt gets ``premise``, ``hypothesis``, ``thoughts``, ``predicted_label``, ``true_label``,
    and ``rejections``, a list of reasons why earlier tries were rejected.

    Args:
        number: of the try, from 1.
        defaults: of the configuration.
    """

    needs_stages: tuple[type[Stage], ...] = (ValidatePairs, Think)
    variables = (*(PREMISE, HYPOTHESIS, "thoughts", "predicted_label", "true_label", "rejections"),)

    class Config(StageConfig):
        llm: str | None = Field(
            None,
            description="language model that reflects, possibly a stronger one: a name under "
            "`llms`; null: the stage is off",
        )
        prompt: str = Field(
            "reflect", description="prompt file: its name without the suffix, or a path"
        )
        max_similarity: float = Field(
            0.7,
            gt=0,
            le=1,
            description="a reasoning that has this share of the 3-word sequences of the first one, "
            "or more, is refused as a repetition",
        )
        splits: tuple[str, ...] = Field(
            ("train", "validation"), description="splits whose wrong rows are reflected"
        )

    config: Config

    def __init__(self, number: int, **defaults: Any) -> None:
        super().__init__(**{"name": f"reflect-{number}", **defaults})
        self._number = number

    @property
    def is_off(self) -> bool:
        """Whether no model is configured."""
        return self.config.llm is None

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The pair, its labels and its thoughts; from the second try on, the tries before."""
        columns = {**PAIR, LABEL: pa.string(), SPLIT: pa.string()}
        columns |= {name: Think.writes[name] for name in ("think_state", "thoughts")}
        columns |= {"predicted_label": pa.string(), "think_error": pa.string()}
        if self._number > 1:
            columns |= {name: REFLECTION[name] for name in ("reflection_state",)}
            columns |= {"reflection_history": pa.string(), "reflection_tries": pa.int64()}
        return columns

    @property
    def writes(self) -> Mapping[str, pa.DataType]:
        """The reflection and its history."""
        return REFLECTION

    def check(self) -> None:
        """Check the schema of the prompt, and that the test split is left alone."""
        self._fields  # noqa: B018 it raises
        if "test" in self.config.splits:
            from ray_pipeline.core.errors import UserError

            raise UserError(
                f"stages.{self.name}.splits: test rows are measured on, and a reflection is told "
                "their label: leave test out"
            )

    @cached_property
    def _fields(self) -> AnswerFields:
        labels = self.stage_of(ValidatePairs).config.labels
        return answer_fields(self.prompt, labels, (ANALYSIS, IMPROVED))

    async def ask(self, row: Row, llm: Llm) -> Row | Drop | Expand:
        """Ask for a reflection of a row that needs one."""
        if self._number == 1:
            row = {**row, **dict.fromkeys(REFLECTION)}
        if not self._needs_one(row):
            return row
        history: list[dict[str, Any]] = orjson.loads(row["reflection_history"] or "[]")
        entry: dict[str, Any] = {"try": self._number, "model": model_name(self)}
        first = row["thoughts"] or row["think_error"] or "(none)"
        values = {
            **{name: row[name] for name in (PREMISE, HYPOTHESIS)},
            "thoughts": first,
            "predicted_label": row["predicted_label"] or "(none)",
            "true_label": row[LABEL],
            "rejections": [each["rejected"] for each in history if each.get("rejected")],
        }
        try:
            answer = await llm(
                self.prompt,
                check=lambda text: self._complaint(text, row, first),
                sample=self._number - 1,
                **values,
            )
        except AnswerError as error:
            if error.answer is None:
                raise
            entry |= {"answer": error.answer[:2_000], "rejected": str(error)[:500]}
            return self._rejected(row, history, entry)
        value = answer.value
        entry |= {ANALYSIS: value[ANALYSIS], IMPROVED: value[IMPROVED], "label": value["label"]}
        if value["label"] != row[LABEL]:
            entry["rejected"] = f"it gives the label {value['label']!r}"
            return self._rejected(row, history, entry)
        return self._written(row, history, entry, WRITTEN)

    def _needs_one(self, row: Row) -> bool:
        is_wrong = row["think_state"] == "asked" and row["predicted_label"] != row[LABEL]
        again = self._number == 1 or row["reflection_state"] == REJECTED
        return is_wrong and again and row[SPLIT] in self.config.splits

    def _rejected(self, row: Row, history: list[Any], entry: dict[str, Any]) -> Row:
        return self._written(row, history, entry, REJECTED)

    def _written(self, row: Row, history: list[Any], entry: dict[str, Any], state: str) -> Row:
        return {
            **row,
            "reflection_state": state,
            ANALYSIS: entry.get(ANALYSIS),
            IMPROVED: entry.get(IMPROVED),
            "reflection_model": entry["model"],
            "reflection_tries": self._number,
            "reflection_history": orjson.dumps([*history, entry]).decode(),
        }

    def _complaint(self, text: str, row: Row, first: str) -> str | None:
        """What is wrong with a reflection, for the model."""
        if complaint := wrong_answer(text, self._fields, row[PREMISE]):
            return complaint
        value = orjson.loads(text.strip().removeprefix("```json").strip("`"))
        improved = value[IMPROVED]
        if told := mentions_being_told(improved):
            return (
                f"improved_reasoning says {told!r}: write it as if nobody had told you the label "
                "and there were no other reasoning"
            )
        if similarity(improved, first) >= self.config.max_similarity:
            return "improved_reasoning says the same as the first reasoning: reason anew"
        labels = self.stage_of(ValidatePairs).config.labels
        if value["label"] == row[LABEL] and not without_labels(improved, labels):
            return "improved_reasoning is a verdict and no reasoning: say what leads to the label"
        return None
