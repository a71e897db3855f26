"""Units as the rows of Ray Data's blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import pyarrow as pa

from ray_pipeline.sources.unit import Unit


def unit_blocks(units: Sequence[Unit], size: int) -> list[pa.Table]:
    """The units as Arrow tables of ``size`` rows, one for each block."""
    table = pa.Table.from_pylist([asdict(unit) for unit in units])
    # Copied, since a slice would be pickled with the whole table behind it.
    return [
        pa.Table.from_pylist(table.slice(start, size).to_pylist(), schema=table.schema)
        for start in range(0, len(units), size)
    ]


def units_of(block: pa.Table) -> list[Unit]:
    """The units that a block carries."""
    return [Unit(**row) for row in block.to_pylist()]
