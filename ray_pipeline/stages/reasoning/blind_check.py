"""The check of a reflection: does its reasoning lead a reader to the label who was not told it?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pyarrow as pa
from pydantic import Field

from ray_pipeline.core.errors import UserError
from ray_pipeline.llm.asking import AnswerError, Llm
from ray_pipeline.stage import AskStage, Drop, Expand, Row, Stage, StageConfig
from ray_pipeline.stages.reasoning.reflect import ACCEPTED, IMPROVED, REFLECTION, REJECTED, WRITTEN
from ray_pipeline.stages.reasoning.reflection_text import without_labels
from ray_pipeline.stages.reasoning.think import model_name
from ray_pipeline.stages.reasoning.validate_pairs import (
    HYPOTHESIS,
    LABEL,
    PAIR,
    PREMISE,
    ValidatePairs,
)


class BlindCheck(AskStage):
    """Accepts a reflection if a reader who sees the pair and the reasoning gives the true label.

    A reflection that was refused before is not checked; the reader gives its pair a label all the
    same, for `ChooseReasoning`'s suspected labels.

    The reader is shown the reasoning without sentences that name a label or begin as a verdict
    (`reflection_text.without_labels`). It also reads the pair alone and the pair with the first
    thoughts, where configured: ``blind_label_alone`` and ``blind_label_thoughts``. Where the reader
    gives the true label to the pair alone, its acceptance says little about the reasoning.

    The prompt gets ``premise``, ``hypothesis`` and ``reasoning``, which may be empty. Its answer is
    one label.

    Args:
        number: of the try, from 1.
        defaults: of the configuration.
    """

    needs_stages: tuple[type[Stage], ...] = (ValidatePairs,)
    variables = (PREMISE, HYPOTHESIS, "reasoning")

    class Config(StageConfig):
        llm: str | None = Field(
            None,
            description="language model that checks: a name under `llms`; null: the stage is off, "
            "and no reflection is accepted",
        )
        prompt: str = Field(
            "blind_check", description="prompt file: its name without the suffix, or a path"
        )
        alone: bool = Field(
            True, description="ask about the pair without any reasoning, too: one more request"
        )
        with_thoughts: bool = Field(
            False, description="ask about the pair with the first thoughts, too: one more request"
        )

    config: Config

    def __init__(self, number: int, **defaults: Any) -> None:
        super().__init__(**{"name": f"blind-check-{number}", **defaults})
        self._number = number

    @property
    def is_off(self) -> bool:
        """Whether no model is configured."""
        return self.config.llm is None

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The pair, its label, its thoughts and its reflection."""
        names = ("reflection_state", IMPROVED, "reflection_history", "reflection_tries")
        reflection = {name: REFLECTION[name] for name in names}
        return {**PAIR, LABEL: pa.string(), "thoughts": pa.string(), **reflection}

    @property
    def writes(self) -> Mapping[str, pa.DataType]:
        """The state of the reflection, and the labels of the reader."""
        labels = ("blind_label", "blind_label_alone", "blind_label_thoughts", "blind_model")
        state = {name: REFLECTION[name] for name in ("reflection_state", "reflection_history")}
        return {**state, **dict.fromkeys(labels, pa.string())}

    def check(self) -> None:
        """Check that the prompt's answer is one of the labels."""
        labels = self._labels
        if self.prompt.format.kind != "label" or set(self.prompt.format.labels) != set(labels):
            raise UserError(
                f"prompt {self.prompt.name}: a blind check answers with a label: write answer: "
                f"{{format: label, labels: [{', '.join(labels)}]}}"
            )

    @property
    def _labels(self) -> tuple[str, ...]:
        labels: tuple[str, ...] = self.stage_of(ValidatePairs).config.labels
        return labels

    async def ask(self, row: Row, llm: Llm) -> Row | Drop | Expand:
        """Ask the reader about a reflection that was written."""
        labels = ("blind_label", "blind_label_alone", "blind_label_thoughts", "blind_model")
        if self._number == 1:
            row = {**row, **dict.fromkeys(labels)}
        if row["reflection_state"] is None or row["reflection_tries"] != self._number:
            return row
        alone, thoughts = row["blind_label_alone"], row["blind_label_thoughts"]
        if self.config.alone and alone is None:
            alone = await self._label(row, "", llm)
        if row["reflection_state"] != WRITTEN:
            return {**row, "blind_label_alone": alone}
        history: list[dict[str, Any]] = orjson.loads(row["reflection_history"])
        entry = history[-1]
        label = await self._label(row, row[IMPROVED], llm)
        if self.config.with_thoughts and thoughts is None and row["thoughts"]:
            thoughts = await self._label(row, row["thoughts"], llm)
        is_accepted = label == row[LABEL]
        entry |= {"blind_label": label, "blind_model": model_name(self)}
        if not is_accepted:
            entry["rejected"] = (
                f"a reader who saw only the reasoning gave the label {label or 'of none'!r}"
            )
        return {
            **row,
            "reflection_state": ACCEPTED if is_accepted else REJECTED,
            "reflection_history": orjson.dumps(history).decode(),
            "blind_label": label,
            "blind_label_alone": alone,
            "blind_label_thoughts": thoughts,
            "blind_model": model_name(self),
        }

    async def _label(self, row: Row, reasoning: str, llm: Llm) -> str | None:
        """The reader's label; None if its answer is none.

        Raises:
            AnswerError: no answer came.
        """
        shown = without_labels(reasoning, self._labels)
        pair = {name: row[name] for name in (PREMISE, HYPOTHESIS)}
        try:
            answer = await llm(self.prompt, reasoning=shown, **pair)
        except AnswerError as error:
            if error.answer is None:
                raise
            return None
        label: str = answer.value
        return label
