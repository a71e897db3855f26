"""Means with their confidence intervals, paired differences, and corrections for many of them."""

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


@dataclass(frozen=True)
class Difference:
    """A mean difference with what its interval and its tests need.

    Attributes:
        mean: ours minus others'.
        error: its standard error; None where there are too few values for one.
        freedom: degrees of freedom of the error; 0 where there is none.
        seeds: number of seeds that both sides have.
        draws: number of draws of the other side.
    """

    mean: float
    error: float | None
    freedom: float
    seeds: int
    draws: int

    def estimate(self, confidence: float = CONFIDENCE) -> Estimate:
        """The mean with Student's t interval."""
        from scipy import stats

        number = self.seeds * self.draws
        if self.error is None:
            return Estimate(self.mean, None, None, number)
        half = float(stats.t.ppf((1 + confidence) / 2, self.freedom)) * self.error
        return Estimate(self.mean, self.mean - half, self.mean + half, number)

    def p_value(self, against: float = 0.0) -> float | None:
        """Two-sided p of Student's t test that the true difference is ``against``."""
        from scipy import stats

        if self.error is None:
            return None
        if self.error == 0:
            return 1.0 if self.mean == against else 0.0
        return float(2 * stats.t.sf(abs(self.mean - against) / self.error, self.freedom))


def crossed_difference(
    ours: Mapping[int, float], draws: Sequence[Mapping[int, float]]
) -> Difference | None:
    """The mean difference, ours minus that of several draws, over the seeds that all of them have.

    With one draw, differences are paired by seed. With several, seeds and draws are two crossed
    random effects without repetition: the squared error is ``(MS_seeds + MS_draws) / (seeds ·
    draws)``, with Satterthwaite's degrees of freedom (Satterthwaite 1946; Searle, Casella and
    McCulloch, *Variance Components*, 1992, chapter 4). It carries the chance of both. The mean
    square of the residual is not subtracted, which errs towards a wider interval where there are
    few: ``tests/evaluate/test_statistics.py`` has its coverage.

    Args:
        ours: a value for each seed.
        draws: of each draw, a value for each seed; one draw or more.

    Returns:
        The difference; None if there is no draw, or no seed that all have.
    """
    shared = sorted(ours.keys() & set.intersection(*map(set, draws))) if draws else []
    if not shared:
        return None
    values = [[ours[seed] - draw[seed] for draw in draws] for seed in shared]
    of_seeds = [math.fsum(row) / len(row) for row in values]
    of_draws = [math.fsum(column) / len(shared) for column in zip(*values, strict=True)]
    mean = math.fsum(of_seeds) / len(shared)
    total = len(shared) * len(draws)
    squares = [
        (_mean_square(of_seeds, mean) * len(draws), len(shared) - 1),
        (_mean_square(of_draws, mean) * len(shared), len(draws) - 1),
    ]
    known = [(square, freedom) for square, freedom in squares if freedom]
    if not known:
        return Difference(mean, None, 0.0, len(shared), len(draws))
    both = math.fsum(square for square, _ in known)
    parts = math.fsum(square**2 / freedom for square, freedom in known)
    freedom = both**2 / parts if parts else float(sum(freedom for _, freedom in known))
    return Difference(mean, math.sqrt(both / total), freedom, len(shared), len(draws))


def _mean_square(means: Sequence[float], mean: float) -> float:
    if len(means) < 2:
        return 0.0
    return math.fsum((value - mean) ** 2 for value in means) / (len(means) - 1)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values of a family of tests (Holm 1979, *Scandinavian Journal of Statistics* 6).

    The k-th smallest of m is multiplied by ``m - k + 1``, and none is below a smaller one's. To
    call significant what is below α then has a chance of at most α of one false call among all of
    them, however they depend on each other. None stays None and does not count.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[place] = largest
    return adjusted


def perplexity_of(loss: float) -> float:
    """``exp(loss)``; infinite on overflow."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
