"""The part of `quality_tradeoff` that trains, behind a stage that takes the rows in their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from ray_pipeline.core.rows import set_column
from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stage import MapStage, StageConfig
from ray_pipeline.stages.experiment.train import TrainSubsets
from ray_pipeline.stages.training.split import Split
from ray_pipeline.stages.training.tokenise import TokeniseInstructions


class Subset(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int | None = None
    share: float | None = None
    quantile: float | None = None
    min_score: float | None = None


class SelectConfig(StageConfig):
    subsets: dict[str, Subset]
    controls: bool = True


class Select(MapStage):
    """Rows with a rank below a subset's size are in it, and in its control by the other end."""

    name: ClassVar[str] = "select-subsets"
    reads: ClassVar[Mapping[str, pa.DataType]] = {"rank": pa.int64(), "split": pa.string()}
    writes: ClassVar[Mapping[str, pa.DataType]] = {"subsets": pa.list_(pa.string())}
    Config: ClassVar[type[StageConfig]] = SelectConfig

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        sizes = {name: one.rows or 0 for name, one in self.config.subsets.items()}
        chosen: list[Any] = [
            [name for name, size in sizes.items() if rank < size]
            + [f"{name}-random" for name, size in sizes.items() if rank % 100 >= 100 - size]
            for rank in rows["rank"].to_pylist()
        ]
        return set_column(rows, "subsets", pa.array(chosen, pa.list_(pa.string())))


PIPELINE = Pipeline("experiment", [Split, TokeniseInstructions, Select, TrainSubsets])
