"""Pairs as questions and answers of a language model, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import pyarrow as pa
from pydantic import Field, model_validator

from ray_pipeline.core.config import Section
from ray_pipeline.core.rows import set_column
from ray_pipeline.stage import MapStage, Stage, StageConfig
from ray_pipeline.stages.reasoning.validate_pairs import (
    HYPOTHESIS,
    LABEL,
    PAIR,
    PREMISE,
    ValidatePairs,
)


class PairFormat(Section):
    """How a pair is asked about and answered."""

    question: str = Field(
        "Premise: {premise}\nHypothesis: {hypothesis}\n"
        "Does the premise entail the hypothesis, contradict it, or neither (neutral)?",
        description="what a model is asked, with {premise} and {hypothesis} in it",
    )
    answer: str = Field(
        "{reasoning}\nLabel: {label}",
        description="what it answers, with {label} at the end; {reasoning} may stand before it",
    )
    label_words: dict[str, str] = Field(
        {},
        description="words for labels in the answer, such as {entailment: 'yes', neutral: maybe, "
        "contradiction: 'no'}; a word of one token is learnt faster. Labels without one are their "
        "own words",
    )

    @model_validator(mode="after")
    def _has_places(self) -> PairFormat:
        for name in (PREMISE, HYPOTHESIS):
            if f"{{{name}}}" not in self.question:
                raise ValueError(f"question: {{{name}}} is not in it")
        if not self.answer.endswith("{label}"):
            raise ValueError("answer: {label} must be its end: the reasoning comes before it")
        words = list(self.label_words.values())
        if len(set(words)) < len(words):
            raise ValueError("label_words: two labels have the same word")
        return self

    @property
    def has_reasoning(self) -> bool:
        """Whether the answer has a reasoning before its label."""
        return "{reasoning}" in self.answer

    def word(self, label: str) -> str:
        """The word for a label."""
        return self.label_words.get(label, label)

    def ask(self, premise: str, hypothesis: str) -> str:
        """The question about a pair. What its texts spell is not replaced."""
        return _filled(self.question, {PREMISE: premise, HYPOTHESIS: hypothesis})

    def reply(self, label: str, reasoning: str | None) -> str | None:
        """The answer; None where it needs a reasoning and there is none."""
        if self.has_reasoning and not (reasoning and reasoning.strip()):
            return None
        return _filled(
            self.answer, {"label": self.word(label), "reasoning": (reasoning or "").strip()}
        )

    def read(self, answer: str, labels: Sequence[str]) -> tuple[str | None, str | None]:
        """Label and reasoning of an answer; None for what cannot be read in it.

        The label is what follows the last mark that the answer puts before it. The reasoning of an
        answer that `reply` wrote is what it was given.
        """
        mark = self.answer.removesuffix("{label}").rpartition("{reasoning}")[2]
        before, found, said = answer.rpartition(mark) if mark else ("", "yes", answer)
        if not found:
            return None, None
        bare = said.strip().strip("\"'`.*").casefold()
        label = next((name for name in labels if self.word(name).casefold() == bare), None)
        opening = self.answer.partition("{reasoning}")[0] if self.has_reasoning else ""
        reasoning = before.removeprefix(opening).strip() if self.has_reasoning else None
        return label, reasoning or None


def _filled(template: str, values: Mapping[str, str]) -> str:
    """A template with its places filled at once, so that no value is searched for places."""
    for name in values:
        template = template.replace(f"{{{name}}}", f"\0{name}\0")
    parts = template.split("\0")
    return "".join(values[part] if at % 2 else part for at, part in enumerate(parts))


class PairText(MapStage):
    """Writes each pair as ``question`` and ``answer``, for the stages that tokenise and train.

    Args:
        kind: ``label``: the answer is the label alone; ``reasoning``: the chosen reasoning and the
            label, and null where a pair has none.
        defaults: of the configuration.
    """

    needs_stages: tuple[type[Stage], ...] = (ValidatePairs,)
    writes = {"question": pa.string(), "answer": pa.string()}
    internal = ("question", "answer")

    class Config(StageConfig, PairFormat):
        pass

    config: Config

    def __init__(self, kind: Literal["label", "reasoning"], **defaults: object) -> None:
        plain = {"answer": "{label}"} if kind == "label" else {}
        super().__init__(**{"name": f"{kind}-text", **plain, **defaults})  # type: ignore[arg-type]
        self._kind = kind

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The pair and its label; the reasoning where the answer has one."""
        columns = {**PAIR, LABEL: pa.string()}
        return columns if self._kind == "label" else {**columns, "reasoning": pa.string()}

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Write question and answer of each pair."""
        columns = [rows[name].to_pylist() for name in (PREMISE, HYPOTHESIS, LABEL)]
        has = "reasoning" in self.reads
        reasoning = rows["reasoning"].to_pylist() if has else [None] * rows.num_rows
        questions, answers = [], []
        for premise, hypothesis, label, thoughts in zip(*columns, reasoning, strict=True):
            questions.append(self.config.ask(premise, hypothesis))
            answers.append(self.config.reply(label, thoughts))
        counts["pairs without an answer"] += answers.count(None)
        rows = set_column(rows, "question", pa.array(questions, pa.string()))
        return set_column(rows, "answer", pa.array(answers, pa.string()))
