"""Means over rows that come in families, such as the variants of one prompt, with intervals.

Rows of one family are not independent: the interval counts families, not rows. The mean is a ratio
of sums, and its variance that of the linearised ratio over families (Cochran 1977, Sampling
Techniques, 6.3 and 9A), with Student's t of one less than the number of families.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ray_pipeline.evaluate.statistics import CONFIDENCE, Estimate


@dataclass(frozen=True)
class ClusteredMean:
    """A mean over families of rows.

    Attributes:
        mean: sum of values over sum of weights.
        error: its standard error; None for fewer than two families.
        families: number of families.
    """

    mean: float
    error: float | None
    families: int

    def estimate(self, confidence: float = CONFIDENCE) -> Estimate:
        """The mean with Student's t interval; ``number`` is the number of families."""
        from scipy import stats

        if self.error is None:
            return Estimate(self.mean, None, None, self.families)
        half = float(stats.t.ppf((1 + confidence) / 2, self.families - 1)) * self.error
        return Estimate(self.mean, self.mean - half, self.mean + half, self.families)

    def p_value(self) -> float | None:
        """Two-sided p of Student's t test that the true mean is 0."""
        from scipy import stats

        if self.error is None:
            return None
        if self.error == 0:
            return 1.0 if self.mean == 0 else 0.0
        return float(2 * stats.t.sf(abs(self.mean) / self.error, self.families - 1))


def clustered_mean(
    values: Sequence[float], families: Sequence[str], weights: Sequence[float] | None = None
) -> ClusteredMean | None:
    """The mean of values, a ratio of sums where they have weights.

    Args:
        values: of each row; with weights, their sums, such as nats.
        families: which rows belong together.
        weights: of each row, such as tokens; None: 1 each.

    Returns:
        The mean; None where there is no row, or the weights are all 0.
    """
    value = np.asarray(values, float)
    weight = np.ones(len(value)) if weights is None else np.asarray(weights, float)
    total = float(weight.sum())
    if not len(value) or total == 0:
        return None
    names, of_row = np.unique(np.asarray(families, object), return_inverse=True)
    mean = float(value.sum()) / total
    number = len(names)
    if number < 2:
        return ClusteredMean(mean, None, number)
    residuals = np.bincount(of_row, value - mean * weight, number)
    error = math.sqrt(number / (number - 1) * float((residuals**2).sum())) / total
    return ClusteredMean(mean, error, number)
