"""Runs a decide stage in this process, on rows in any layout, without a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from ray_pipeline.core.storage import Storage
from ray_pipeline.core.tables import REF
from ray_pipeline.engine.stored_tables import StepExecutor, StoredTables, Task, Written
from ray_pipeline.stage import DecideStage


@dataclass(frozen=True)
class Parts:
    """Tables that are there."""

    tables: tuple[pa.Table, ...]

    @property
    def parts(self) -> int:
        return len(self.tables)

    @property
    def rows(self) -> int:
        return sum(table.num_rows for table in self.tables)

    def load(self, storage: Storage, part: int) -> pa.Table:
        return self.tables[part]


def backwards(what: str, tasks: Sequence[Task]) -> list[Written]:
    """Runs the last task first: the order must not matter."""
    return [task.run() for task in tasks[::-1]][::-1]


def tables(folder: Path, parts: Sequence[pa.Table]) -> StoredTables:
    """A table of some parts; part ``i`` stands for unit ``i``."""
    executor = StepExecutor(Storage(str(folder)), "work", backwards, tuple(range(len(parts))))
    return StoredTables(executor, Parts(tuple(parts)))


def all_rows(made: StoredTables) -> pa.Table:
    """Every row of a table, part after part."""
    saved = made.saved()._saved()
    storage = made._executor.storage
    return pa.concat_tables(saved.load(storage, part) for part in range(saved.parts))


def decisions(
    stage: DecideStage, rows: pa.Table, folder: Path, units: int = 1
) -> dict[str, dict[str, object]]:
    """What the stage decides on rows cut into some units: decisions by row id."""
    cuts = np.linspace(0, rows.num_rows, units + 1).astype(int).tolist()
    keys = []
    refs: dict[int, str] = {}
    for unit, (start, end) in enumerate(pairwise(cuts)):
        ref = (unit << 32) + np.arange(end - start, dtype=np.int64)
        part = rows.slice(start, end - start)
        refs |= dict(zip(ref.tolist(), part["row_id"].to_pylist(), strict=True))
        keys.append(stage.keys(part.append_column(REF, pa.array(ref)).combine_chunks()))
    made = all_rows(stage.decide(tables(folder, keys)))  # type: ignore[arg-type]
    found = {refs[row.pop(REF)]: row for row in made.to_pylist()}
    assert len(found) == made.num_rows, "decided twice on a row"
    return found
