"""Means over seeds with their confidence intervals, and differences paired by seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

#: Share of repetitions of an experiment whose interval holds the true mean.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with its confidence interval.

    Attributes:
        mean: of the values.
        low: lower end of the interval; None where there are too few values for an interval.
        high: upper end of the interval; None where ``low`` is.
        number: number of values.
    """

    mean: float
    low: float | None
    high: float | None
    number: int

    def mapped(self, increasing: Callable[[float], float]) -> Estimate:
        """Mean and ends under an increasing function, which keeps the interval's confidence."""
        ends = [None if end is None else increasing(end) for end in (self.low, self.high)]
        return Estimate(increasing(self.mean), ends[0], ends[1], self.number)

    def to_json(self) -> dict[str, Any]:
        """As plain data, for metrics."""
        return asdict(self)


def estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """The mean of values with Student's t interval; one value has no interval.

    Values are taken to be independent draws from one normal distribution. With three of them the
    interval is 2.5 standard deviations to either side.

    Raises:
        ValueError: there are no values.
    """
    from scipy import stats

    number = len(values)
    if not number:
        raise ValueError("there is nothing to take the mean of")
    mean = math.fsum(values) / number
    if number == 1:
        return Estimate(mean, None, None, 1)
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (number - 1))
    half = float(stats.t.ppf((1 + confidence) / 2, number - 1)) * deviation / math.sqrt(number)
    return Estimate(mean, mean - half, mean + half, number)


def paired_difference(
    ours: Mapping[int, float], others: Mapping[int, float], confidence: float = CONFIDENCE
) -> Estimate | None:
    """The mean difference, ours minus others', over shared seeds; None if no seed is shared.

    What a seed does to both sides (the initial weights) cancels out, so the interval is narrower
    than that of two separate means.
    """
    shared = sorted(ours.keys() & others.keys())
    if not shared:
        return None
    return estimate([ours[seed] - others[seed] for seed in shared], confidence)


def perplexity_of(loss: float) -> float:
    """``exp(loss)``; infinite on overflow."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
