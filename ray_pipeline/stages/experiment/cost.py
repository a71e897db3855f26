"""Estimates the cost of trainings before they run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class TrainingCost:
    """The computation that a number of trainings of one model takes.

    Attributes:
        number: number of trainings.
        parameters: number of parameters of the model.
        tokens: number of tokens that all trainings process together.
        flops_per_second: FLOP/s that one GPU achieves in training; None: not known.
    """

    number: int
    parameters: int
    tokens: int
    flops_per_second: float | None = None

    @property
    def flops(self) -> float:
        """6 FLOPs per parameter and token, forward and backward (Kaplan et al. 2020, section 2.1).

        Without attention over long texts, evaluation, and the third more that gradient
        checkpointing computes again.
        """
        return 6.0 * self.parameters * self.tokens

    @property
    def gpu_hours(self) -> float | None:
        """Hours on one GPU; None if its speed is not known."""
        return None if self.flops_per_second is None else self.flops / self.flops_per_second / 3600

    def __str__(self) -> str:
        """One line for progress output and for the plan."""
        flops = (
            f"{self.flops:.2g} FLOPs (6 · {self.parameters:,} parameters · {self.tokens:,} tokens)"
        )
        hours = "" if self.gpu_hours is None else (
            f", {self.gpu_hours:.3g} GPU-hours at {self.flops_per_second:.2g} FLOP/s"
        )  # fmt: skip
        return f"{self.number} trainings: {flops}{hours}"


def subset_rows(config: Any, rows: pa.Table, scale: float) -> Mapping[str, int]:
    """Estimate the number of rows of each configured subset.

    Args:
        config: configuration of the stage that selects the subsets.
        rows: a sample of all rows.
        scale: number of rows that each row of the sample represents.

    Returns: rows by subset name; without subsets whose size cannot be estimated from a sample.
    """
    if "split" in rows.column_names:
        rows = rows.filter(pc.equal(rows["split"], "train"))
    pool = round(rows.num_rows * scale)
    found = {name: _size(one, rows, pool) for name, one in config.subsets.items()}
    return {name: size for name, size in found.items() if size}


def _size(subset: Any, rows: pa.Table, pool: int) -> int | None:
    if subset.rows is not None:
        return min(int(subset.rows), pool)
    if subset.share is not None:
        return round(subset.share * pool)
    if subset.quantile is not None:
        return round((1 - subset.quantile) * pool)
    score = rows["quality"]
    if score.null_count == len(score):
        return None  # not computed yet
    kept: int = pc.sum(pc.greater_equal(score, subset.min_score)).as_py() or 0
    return round(kept / max(1, rows.num_rows) * pool)
