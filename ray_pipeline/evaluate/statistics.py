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
    """A mean and the range that its true value lies in.

    Attributes:
        mean: of the values.
        low: lower end of the interval; None where there are too few values for one.
        high: its upper end.
        number: how many values.
    """

    mean: float
    low: float | None
    high: float | None
    number: int

    def mapped(self, rising: Callable[[float], float]) -> Estimate:
        """Mean and ends under a function that rises: the interval holds as much as before."""
        ends = [None if end is None else rising(end) for end in (self.low, self.high)]
        return Estimate(rising(self.mean), ends[0], ends[1], self.number)

    def to_json(self) -> dict[str, Any]:
        """As plain data, for metrics."""
        return asdict(self)


def estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """The mean of values, with Student's t interval; without one where there is but one value.

    It takes values to be drawn independently from one normal distribution. With three of them the
    interval is 2.5 standard deviations to either side: wide, and rightly so.

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
    """The mean of ours minus others' over the seeds that both have; None: they share none.

    What a seed does to both (the weights that they begin with) cancels out, so the interval is
    narrower than that of two separate means wherever a seed's luck is common to both.
    """
    shared = sorted(ours.keys() & others.keys())
    if not shared:
        return None
    return estimate([ours[seed] - others[seed] for seed in shared], confidence)


def perplexity_of(loss: float) -> float:
    """``exp(loss)``, infinite where too large."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
