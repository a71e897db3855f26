"""The part of `quality_tradeoff` that trains, after a stage that takes the rows in their order."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from support.instruction_stages import STAGES

from ray_pipeline.core.tables import REF, Tables
from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.experiment.train import TrainSubsets
from ray_pipeline.stages.subsets.select import SelectSubsets
from ray_pipeline.stages.training.split import Split


class Select(SelectSubsets):
    """Rows with a rank below a subset's size are in it, and in its control by the other end."""

    reads = {"rank": pa.int64(), "split": pa.string()}
    writes = {"subsets": pa.list_(pa.string())}

    def keys(self, rows: pa.Table) -> pa.Table:
        return rows.select([REF, "rank"])

    def decide(self, keys: Tables) -> Tables:
        return keys.map(self.chosen)

    def chosen(self, rows: pa.Table) -> pa.Table:
        sizes = {name: one.rows or 0 for name, one in self.config.subsets.items()}
        subsets: list[Any] = [
            [name for name, size in sizes.items() if rank < size]
            + [f"{name}-random" for name, size in sizes.items() if rank % 100 >= 100 - size]
            for rank in rows["rank"].to_pylist()
        ]
        nothing = pa.nulls(rows.num_rows, pa.string())
        return pa.table(
            {
                REF: rows[REF],
                "status": nothing,
                "reason": nothing,
                "subsets": pa.array(subsets, pa.list_(pa.string())),
            }
        )


PIPELINE = Pipeline(
    "experiment",
    [
        Split(),
        STAGES["tokenise"],
        Select(),
        TrainSubsets(),
    ],
)
