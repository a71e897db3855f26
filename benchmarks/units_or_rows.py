"""What streams between operators: the rows of a unit as an Arrow block, or only the unit.

    python benchmarks/units_or_rows.py [--units 200] [--rounds 3]

Both sides run three Ray Data operators over units of 512 rows: make the rows, change them in an
actor, commit them as Parquet. With rows, only the last operator writes. With units, each operator
writes its part and the next one reads it, as the engine does, so each of them is a point to resume
from. Also checks, for the rows, that each block stayed one unit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from ray.data import ActorPoolStrategy

ROWS = 512


def make(unit: int) -> pa.Table:
    """Rows of the size of a question and an answer."""
    text = "which of these rivers is the longest in the world " * 4
    return pa.table({"unit": [unit] * ROWS, "text": [f"{text}{i}" for i in range(ROWS)]})


class Change:
    """The middle operator: a column more."""

    def __init__(self, folder: str | None) -> None:
        self._folder = folder

    def __call__(self, block: pa.Table) -> pa.Table:
        if self._folder is None:
            return block.append_column("changed", block["text"])
        for unit in block["unit"].to_pylist():
            rows = pq.read_table(f"{self._folder}/1-{unit}.parquet")
            pq.write_table(
                rows.append_column("changed", rows["text"]), f"{self._folder}/2-{unit}.parquet"
            )
        return block


def first(block: pa.Table, folder: str | None) -> Any:
    """The first operator: rows out of a unit."""
    for unit in block["unit"].to_pylist():
        if folder is None:
            yield make(unit)
        else:
            pq.write_table(make(unit), f"{folder}/1-{unit}.parquet")
            yield pa.table({"unit": [unit]})


def last(block: pa.Table, folder: str, rows: bool) -> pa.Table:
    """The last operator: commit, and say what the block held."""
    units = set(block["unit"].to_pylist())
    if rows:
        pq.write_table(block, f"{folder}/3-{min(units)}.parquet")
    else:
        for unit in units:
            pq.write_table(
                pq.read_table(f"{folder}/2-{unit}.parquet"), f"{folder}/3-{unit}.parquet"
            )
    return pa.table({"units": [len(units)]})


def run(units: int, rows: bool) -> tuple[float, int]:
    """Seconds, and the most units that one block held."""
    with tempfile.TemporaryDirectory() as folder:
        where = None if rows else folder
        options: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": None}
        blocks: list[Any] = [pa.table({"unit": [unit]}) for unit in range(units)]
        began = time.perf_counter()
        dataset = (
            ray.data.from_arrow(blocks)
            .map_batches(partial(first, folder=where), **options)
            .map_batches(
                Change,
                fn_constructor_args=(where,),
                compute=ActorPoolStrategy(size=1),
                num_cpus=0,
                **options,
            )
            .map_batches(partial(last, folder=folder, rows=rows), **options)
        )
        most = max(row["units"] for row in dataset.iter_rows())
        assert len(list(Path(folder).glob("3-*.parquet"))) == units
        return time.perf_counter() - began, most


def main() -> None:
    """Alternate both sides and print the ratio of their medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    run(10, rows=True)
    seconds: dict[str, list[float]] = {"rows": [], "units": []}
    for _ in range(options.rounds):
        for side in seconds:
            wall, most = run(options.units, rows=side == "rows")
            assert side == "units" or most == 1, f"a block held {most} units"
            seconds[side].append(wall)
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    print(
        json.dumps(
            {
                "seconds": {k: [round(v, 1) for v in vs] for k, vs in seconds.items()},
                "ms_a_unit": {k: round(v / options.units * 1e3) for k, v in medians.items()},
                "units_over_rows": round(medians["units"] / medians["rows"], 3),
            }
        )
    )


if __name__ == "__main__":
    main()
