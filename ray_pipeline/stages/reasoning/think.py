"""The first stage of reasoning: thoughts about each pair, and a predicted label."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ray_pipeline.core.config import AddedWith
from ray_pipeline.llm.asking import AnswerError, Llm
from ray_pipeline.llm.prompt import Prompt
from ray_pipeline.rundir.layout import SPLIT
from ray_pipeline.stage import AskStage, AskStageConfig, Drop, Expand, Row, Stage
from ray_pipeline.stages.reasoning.answer_schema import AnswerFields, answer_fields, wrong_answer
from ray_pipeline.stages.reasoning.validate_pairs import (
    HYPOTHESIS,
    LABEL,
    PAIR,
    PREMISE,
    ValidatePairs,
)
from ray_pipeline.stages.reasoning.votes import vote
from ray_pipeline.stages.text.keys import text_hash

#: Names of the splits in file names, as in the original experiment.
SPLIT_FILES = {"train": "train", "validation": "dev", "test": "test"}


@dataclass(frozen=True)
class _Sample:
    """One answer, or why there is none."""

    label: str | None
    thoughts: str | None = None
    thinking: str | None = None
    tokens: int = 0
    error: str | None = None


class Think(AskStage):
    """Writes a model's ``thoughts`` about each pair and its ``predicted_label``.

    The answer is JSON for the prompt's schema, with the label as its last field. With several
    ``samples`` the majority decides (`votes`), and the thoughts are those of its first answer. An
    answer that cannot be used after ``reasks`` abstains. If all abstain, ``predicted_label`` is
    null, which counts as wrong, and ``think_error`` says why; a row without any answer from the
    model fails, for ``ray-pipeline retry``.

    What a reasoning model thinks before it answers is kept apart, in ``thinking``.

    Rows that are not in ``share`` get no thoughts; ``think_state`` says which (``asked``,
    ``not_asked``). Exports ``train_thoughts.json``, ``dev_thoughts.json``, ``test_thoughts.json``.

    The prompt gets ``premise`` and ``hypothesis``.
    """

    name = "think"
    reads = {**PAIR, LABEL: pa.string(), SPLIT: pa.string()}
    writes = {
        "think_state": pa.string(),
        "thoughts": pa.string(),
        "thinking": pa.string(),
        "predicted_label": pa.string(),
        "votes": pa.list_(pa.string()),
        "vote_share": pa.float64(),
        "think_model": pa.string(),
        "think_tokens": pa.int64(),
        "think_error": pa.string(),
    }
    needs_stages: tuple[type[Stage], ...] = (ValidatePairs,)
    variables = (PREMISE, HYPOTHESIS)

    class Config(AskStageConfig):
        llm: str = Field("thinker", description="language model that reasons: a name under `llms`")
        prompt: str = Field(
            "think", description="prompt file: its name without the suffix, or a path"
        )
        samples: int = Field(1, ge=1, le=64, description="answers about each pair, which vote")
        temperatures: tuple[float, ...] = Field(
            (),
            description="sampling temperature of each answer in turn, such as [0.0, 0.7, 0.7]; "
            "empty: that of the prompt, else of the model. Several answers need one above 0",
        )
        store: Literal["answer", "thinking"] = Field(
            "answer",
            description="what is stored as thoughts: the reasoning in the answer; or what a "
            "reasoning model thought before it, where that is visible, else the reasoning",
        )
        share: Annotated[float, AddedWith(1.0)] = Field(
            1.0,
            ge=0,
            le=1,
            description="fraction of the pairs that are asked about; which, depends on their text "
            "and the seed, and those of a smaller fraction are among those of a larger one",
        )

    config: Config

    def check(self) -> None:
        """Check the schema of the prompt, and that several answers can differ."""
        self._fields  # noqa: B018 it raises

    @cached_property
    def _fields(self) -> AnswerFields:
        return answer_fields(self.prompt, self.stage_of(ValidatePairs).config.labels)

    async def ask(self, row: Row, llm: Llm) -> Row | Drop | Expand:
        """Ask for the samples of a pair at the same time."""
        nothing = dict.fromkeys(self.writes)
        pair = [row[PREMISE], row[HYPOTHESIS]]
        if text_hash([self.name, str(self.settings.seed), *pair]) / 2**64 >= self.config.share:
            return {**row, **nothing, "think_state": "not_asked"}
        numbers = range(self.config.samples)
        samples = await asyncio.gather(*(self._sample(row, llm, number) for number in numbers))
        found = vote(
            [sample.label for sample in samples], "\x1f".join([str(self.settings.seed), *pair])
        )
        best = samples[found.winner or 0]
        errors = [sample.error for sample in samples if sample.error is not None]
        return {
            **row,
            "think_state": "asked",
            "thoughts": best.thoughts,
            "thinking": best.thinking,
            "predicted_label": found.label,
            "votes": [sample.label for sample in samples],
            "vote_share": found.share,
            "think_model": model_name(self),
            "think_tokens": sum(sample.tokens for sample in samples),
            "think_error": errors[0] if found.label is None else None,
        }

    async def _sample(self, row: Row, llm: Llm, number: int) -> _Sample:
        def check(text: str) -> str | None:
            return wrong_answer(text, self._fields, row[PREMISE])

        pair = {name: row[name] for name in self.variables}
        try:
            answer = await llm(self._prompt(number), check=check, sample=number, **pair)
        except AnswerError as error:
            if error.answer is None:
                raise
            return _Sample(None, thoughts=error.answer.strip() or None, error=str(error))
        thinking = answer.thinking or None
        thoughts = self._fields.thoughts(answer.value)
        if self.config.store == "thinking" and thinking:
            thoughts = thinking
        tokens = answer.response.completion_tokens
        return _Sample(answer.value["label"], thoughts, thinking, tokens)

    def _prompt(self, number: int) -> Prompt:
        """The prompt with the temperature of a sample."""
        temperatures = self.config.temperatures
        if not temperatures:
            return self.prompt
        sampling = {"temperature": temperatures[number % len(temperatures)]}
        return replace(self.prompt, sampling={**self.prompt.sampling, **sampling})

    def exports(self) -> Mapping[str, Callable[[pa.Table], pa.Table]]:
        """The thoughts of each split, with the names and keys of the original experiment."""
        return {
            f"{file}_thoughts.json": _of_split(split, _THOUGHTS)
            for split, file in SPLIT_FILES.items()
        }


_THOUGHTS = {
    **{name: name for name in (PREMISE, HYPOTHESIS, "thoughts", "predicted_label")},
    LABEL: "true_label",
    **{name: name for name in ("row_id", "think_model", "think_tokens", "thinking")},
    **{name: name for name in ("votes", "vote_share", "think_error")},
}


def _of_split(split: str, columns: Mapping[str, str]) -> Callable[[pa.Table], pa.Table]:
    def chosen(rows: pa.Table) -> pa.Table:
        is_asked = pc.and_(pc.equal(rows[SPLIT], split), pc.equal(rows["think_state"], "asked"))
        return rows.filter(is_asked).select(list(columns)).rename_columns(list(columns.values()))

    return chosen


def model_name(stage: AskStage) -> str:
    """The model that a stage asks, as its configuration names it."""
    identity = stage.settings.llms[stage.config.llm]
    return str(identity["model"]) if isinstance(identity, dict) else str(identity)
