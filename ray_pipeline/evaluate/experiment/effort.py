"""How much training two sides of a comparison had: updates, tokens and learning-rate schedule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ray_pipeline.evaluate.experiment.cells import Cell, Group

#: The mode whose trainings are compared only where they had equally much training.
EQUAL_MODE = "tokens"


@dataclass(frozen=True)
class Range:
    """The least and the most of a count over the seeds of a group."""

    least: int
    most: int

    @classmethod
    def of(cls, counts: Sequence[int]) -> Range:
        """The range of one count or more."""
        return cls(min(counts), max(counts))

    def __str__(self) -> str:
        if self.least == self.most:
            return f"{self.least:,}"
        return f"{self.least:,} to {self.most:,}"


def effort(group: Group) -> dict[str, Any]:
    """The training of a group, as plain data: what a report shows beside its figures.

    ``updates`` and ``tokens_seen`` are texts, a range where seeds differ; ``warmup_steps`` and
    ``schedule`` are None in records that do not have them.
    """
    first = group.first
    return {
        "updates": str(Range.of([cell.steps for cell in group.cells])),
        "tokens_seen": str(Range.of([cell.tokens_seen for cell in group.cells])),
        "learning_rate": first.learning_rate,
        "schedule": first.schedule,
        "warmup_steps": first.warmup_steps,
    }


def differences(ours: Group, others: Group) -> list[str]:
    """What the trainings of two groups differ in, besides their rows, as short texts.

    Seeds that both have are compared with each other. Tokens count as equal where they differ by
    less than those of one update: rows are not cut, so the last one exceeds the budget. A learning
    rate is no difference where it was chosen for each group among the same ones.
    """
    pairs = _pairs(ours, others)
    return [text for text in _differences(ours, others, pairs) if text]


def _pairs(ours: Group, others: Group) -> list[tuple[Cell, Cell]]:
    by_seed = {cell.seed: cell for cell in others.cells}
    pairs = [(cell, by_seed[cell.seed]) for cell in ours.cells if cell.seed in by_seed]
    return pairs or [(ours.first, others.first)]


def _differences(
    ours: Group, others: Group, pairs: Sequence[tuple[Cell, Cell]]
) -> Iterator[str | None]:
    yield _against("updates", pairs, "steps", lambda one, other: one.steps == other.steps)
    yield _against("tokens", pairs, "tokens_seen", _equal_tokens)
    one, other = ours.first, others.first
    if ours.tried != others.tried:
        yield f"learning rate {one.learning_rate:g} against {other.learning_rate:g}"
    known = one.warmup_steps is not None and other.warmup_steps is not None
    if known and one.warmup_steps != other.warmup_steps:
        yield f"warm-up of {one.warmup_steps:,} against {other.warmup_steps:,} updates"
    if known and one.schedule != other.schedule:
        yield f"{one.schedule} against {other.schedule} schedule"


def _equal_tokens(one: Cell, other: Cell) -> bool:
    updates = max(1, min(one.steps, other.steps))
    return abs(one.tokens_seen - other.tokens_seen) * updates < max(
        one.tokens_seen, other.tokens_seen, 1
    )


def _against(what: str, pairs: Sequence[tuple[Cell, Cell]], field: str, equal: Any) -> str | None:
    if all(equal(one, other) for one, other in pairs):
        return None
    ours, others = (Range.of([getattr(pair[side], field) for pair in pairs]) for side in (0, 1))
    return f"{ours} against {others} {what}"


def not_compared(ours: Group, others: Group) -> str | None:
    """Why two groups must not be compared; None if they may.

    In the mode ``tokens`` the claim is that only the rows differ, so everything else has to be
    equal. In the mode ``epochs`` the length of the training is part of what is compared.
    """
    if ours.first.mode != EQUAL_MODE:
        return None
    return ", ".join(differences(ours, others)) or None
