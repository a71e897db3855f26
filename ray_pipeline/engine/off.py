"""Replaces a stage that is turned off, or that does not work on the rows of a source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa

from ray_pipeline.core.rows import set_column
from ray_pipeline.stage import MapStage, Settings, Stage, StageConfig


class Off(MapStage):
    """Stands for a stage that is turned off: its columns are there, and null. It costs no pool.

    Columns that are there already stay as they are: those that the stage would only have changed,
    and scores that a source brings with it.
    """

    def __init__(self, stage: Stage) -> None:
        super().__init__(name=stage.name)
        self.config, self.settings = StageConfig(), Settings()
        self._columns = (stage.writes, stage.removes, stage.internal)

    @property
    def writes(self) -> Mapping[str, pa.DataType]:
        """Those of the stage."""
        return self._columns[0]

    @property
    def removes(self) -> Collection[str]:
        """Those of the stage."""
        return self._columns[1]

    @property
    def internal(self) -> Collection[str]:
        """Those of the stage."""
        return self._columns[2]

    def identity(self) -> dict[str, Any]:
        """Nothing of its configuration matters but that it is off."""
        return {"off": True}

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Add the columns that are missing, or of another type, without a value."""
        for name, kind in self.writes.items():
            if name not in rows.column_names or rows.schema.field(name).type != kind:
                rows = set_column(rows, name, pa.nulls(rows.num_rows, kind))
        return rows
