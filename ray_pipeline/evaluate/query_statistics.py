"""Means over queries with bootstrap intervals, and paired differences between retrievers.

Queries of one family (those that ask for the same in other words) are resampled together: taken for
independent ones, they would make the intervals too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ray_pipeline.evaluate.comparisons import RESAMPLES, Floats
from ray_pipeline.evaluate.statistics import CONFIDENCE, Estimate, holm

#: Random exchanges of a permutation test; the smallest p that it can give is 1 / (this + 1).
PERMUTATIONS = 9_999


@dataclass(frozen=True)
class Gain:
    """How a metric differs between two retrievers on the same queries.

    Attributes:
        metric: name of the metric.
        mean: mean difference, ours minus others'; with the interval's ends.
        low: lower end; None where there are too few families for an interval.
        high: upper end.
        p: two-sided, of a permutation test that exchanges the two retrievers within families.
        won: queries where ours is higher.
        lost: queries where it is lower.
        queries: number of queries.
        families: number of independent families of queries.
    """

    metric: str
    mean: float
    low: float | None
    high: float | None
    p: float
    won: int
    lost: int
    queries: int
    families: int

    def to_json(self) -> dict[str, Any]:
        """As plain data, for metrics."""
        return asdict(self)


def mean_of(values: Floats, families: Sequence[str], seed: int) -> Estimate:
    """The mean over queries with its bootstrap interval; NaN values do not count.

    Raises:
        ValueError: there is no value.
    """
    sums, sizes = _sums(values, families)
    if not len(sums):
        raise ValueError("there are no queries to take the mean of")
    mean = float(sums.sum() / sizes.sum())
    low, high = _ends(sums, sizes, seed)
    return Estimate(mean, low, high, int(sizes.sum()))


def gain_of(
    metric: str, ours: Floats, others: Floats, families: Sequence[str], seed: int
) -> Gain | None:
    """The paired difference of two retrievers on the same queries; None if none has a value."""
    difference = ours - others
    known = difference[~np.isnan(difference)]
    if not len(known):
        return None
    sums, sizes = _sums(difference, families)
    low, high = _ends(sums, sizes, seed)
    return Gain(
        metric=metric,
        mean=float(known.mean()),
        low=low,
        high=high,
        p=_p_value(sums, seed),
        won=int((known > 0).sum()),
        lost=int((known < 0).sum()),
        queries=len(known),
        families=len(sums),
    )


def adjusted(gains: Mapping[str, Gain]) -> dict[str, float]:
    """The p of each gain with Holm's correction over all of them."""
    values = holm([gain.p for gain in gains.values()])
    return {name: 1.0 if p is None else p for name, p in zip(gains, values, strict=True)}


def _sums(values: Floats, families: Sequence[str]) -> tuple[Floats, Floats]:
    """Sums and numbers of the values of each family that has one."""
    known = ~np.isnan(values)
    names = np.asarray(families, object)[known]
    if not len(names):
        return np.empty(0), np.empty(0)
    kinds, of_row = np.unique(names, return_inverse=True)
    sums = np.bincount(of_row, values[known], len(kinds)).astype(np.float64)
    return sums, np.bincount(of_row).astype(np.float64)


def _ends(sums: Floats, sizes: Floats, seed: int) -> tuple[float | None, float | None]:
    if len(sums) < 2:
        return None, None
    drawn = np.random.default_rng(seed).integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    half = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [half, 1 - half])
    return float(low), float(high)


def _p_value(sums: Floats, seed: int) -> float:
    """Share of random signs of the families' differences whose sum is as far from 0."""
    generator = np.random.default_rng(seed)
    signs = generator.choice([-1.0, 1.0], (PERMUTATIONS, len(sums)))
    as_far = np.abs(signs @ sums) >= abs(sums.sum()) - 1e-12
    return float((as_far.sum() + 1) / (PERMUTATIONS + 1))
