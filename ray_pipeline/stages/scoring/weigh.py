"""The overall score of each row: a weighted sum of the scores from other stages."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, field_validator

from ray_pipeline.core.rows import drop, set_column
from ray_pipeline.stage import MapStage, StageConfig


class WeighScores(MapStage):
    """Writes ``quality``, the weighted sum of scores.

    Rows with a score that is missing or not finite are dropped: ``score:not_a_number``.
    """

    name = "weigh-scores"
    writes = {"quality": pa.float64()}
    export = "rows_without_score.csv"

    class Config(StageConfig):
        weights: dict[str, float] = Field(
            {"clarity": 0.25, "response_quality": 0.35, "diversity": 0.2, "complexity": 0.2},
            description="weight of each score column; the weights must sum to 1, and a column of "
            "weight 0 is not read",
        )

        @field_validator("weights")
        @classmethod
        def _sum_to_one(cls, weights: dict[str, float]) -> dict[str, float]:
            total = math.fsum(weights.values())
            if not abs(total - 1) <= 1e-6:  # NaN and infinity too
                raise ValueError(
                    f"the weights sum to {total:g}, not to 1: "
                    + (" + ".join(f"{name} {value:g}" for name, value in weights.items()) or "none")
                )
            return weights

    config: Config

    @property
    def _weights(self) -> dict[str, float]:
        return {name: weight for name, weight in self.config.weights.items() if weight}

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The score columns that have a weight."""
        return dict.fromkeys(self._weights, pa.float64())

    @property
    def needs(self) -> Collection[str]:
        """All score columns that it reads."""
        return set(self._weights)

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Compute the weighted sum of every row's scores."""
        total = np.zeros(rows.num_rows)
        for column, weight in self._weights.items():
            scores = rows[column].cast(pa.float64())
            rows = drop(rows, pc.is_null(scores), f"score:not_a_number: {column} is missing")
            numbers = pc.fill_null(scores, 0.0).to_numpy()
            rows = _drop_not_finite(rows, column, numbers)
            with np.errstate(over="ignore", invalid="ignore"):
                total += weight * numbers
        rows = _drop_not_finite(rows, "quality", total)
        return set_column(rows, "quality", pa.array(total, mask=~np.isfinite(total)))


def _drop_not_finite(rows: pa.Table, name: str, numbers: np.ndarray[Any, Any]) -> pa.Table:
    wrong = ~np.isfinite(numbers)
    if not wrong.any():
        return rows
    reasons = [f"score:not_a_number: {name} is {number:g}" for number in numbers.tolist()]
    return drop(rows, pa.array(wrong), pa.array(reasons, pa.string()))
