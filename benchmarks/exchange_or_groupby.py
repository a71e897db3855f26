"""A decision through files (`stored_tables`) against Ray Data's group-by, on the same keys.

    python benchmarks/exchange_or_groupby.py [--rows 1000000] [--rounds 3]

Both find all but the first row of each key, on a cluster of two CPUs. Ray Data's side groups by a
bucket of keys and works on whole buckets: called once a key it would take hours. Memory is the peak
of the resident memory of all processes of the cluster together, the object store's included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data

from ray_pipeline.core.storage import Storage
from ray_pipeline.engine.decide import run_tasks
from ray_pipeline.engine.stored_tables import StepExecutor, StoredTables

FILES = 16


class Files:
    """Keys in Parquet files, as the parts of a table."""

    def __init__(self, paths: list[str], rows: int) -> None:
        self.paths, self.rows = paths, rows

    @property
    def parts(self) -> int:
        return len(self.paths)

    def load(self, storage: Storage, part: int) -> pa.Table:
        return pq.read_table(self.paths[part])


def losers(groups: pa.Table) -> pa.Table:
    """All but the first of each key; sorts, where the groups do not come sorted."""
    groups = groups.sort_by([("key", "ascending"), ("row_id", "ascending")])
    key = groups["key"].to_numpy()
    lost = np.concatenate([[False], key[1:] == key[:-1]]) if len(key) else np.empty(0, bool)
    return groups.filter(pa.array(lost)).select(["ref", "row_id"])


def through_files(paths: list[str], rows: int, folder: Path) -> int:
    executor = StepExecutor(Storage(str(folder)), "work", run_tasks, tuple(range(len(paths))))
    keys = StoredTables(executor, Files(paths, rows))
    return keys.group(["key"], losers, order=["row_id"]).num_rows


def through_group_by(paths: list[str], rows: int, folder: Path) -> int:
    def bucket(table: pa.Table) -> pa.Table:
        return table.append_column("bucket", pa.array(table["key"].to_numpy() % np.uint64(16)))

    made = (
        ray.data.read_parquet(paths)
        .map_batches(bucket, batch_format="pyarrow", batch_size=None)
        .groupby("bucket")
        .map_groups(losers, batch_format="pyarrow")
    )
    written = folder / "written"
    made.write_parquet(str(written))
    return sum(pq.read_metadata(path).num_rows for path in written.glob("*.parquet"))


def measured(way: str, paths: list[str], rows: int) -> dict[str, float]:
    """Runs one way on a fresh cluster, in this process."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    work: Callable[[list[str], int, Path], int] = globals()[way]
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            total = 0
            for process in psutil.Process().children(recursive=True):
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            peak[0] = max(peak[0], total)

    base = sum(p.memory_full_info().pss for p in psutil.Process().children(recursive=True))
    threading.Thread(target=watch, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        found = work(paths, rows, Path(folder))
        seconds = time.perf_counter() - began
    over.set()
    ray.shutdown()
    return {"seconds": seconds, "mib": (peak[0] - base) / 2**20, "found": found}


def write_keys(folder: Path, rows: int) -> list[str]:
    rng = np.random.default_rng(7)
    paths = []
    for number in range(FILES):
        size = rows // FILES
        key = rng.integers(0, rows, size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        ids = [f"{value:032x}" for value in rng.integers(0, 2**62, size)]
        ref = (number << 32) + np.arange(size)
        path = str(folder / f"{number}.parquet")
        pq.write_table(pa.table({"ref": ref, "key": key, "row_id": ids}), path)
        paths.append(path)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--paths", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measured(options.way, options.paths, options.rows)))
        return
    figures: dict[str, list[dict[str, float]]] = {"through_files": [], "through_group_by": []}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_keys(Path(folder), options.rows)
        for _ in range(options.rounds):
            for way, found in figures.items():
                command = [sys.executable, __file__, "--rows", str(options.rows), "--way", way]
                done = subprocess.run(
                    [*command, "--paths", *paths], stdout=subprocess.PIPE, text=True, check=True
                )
                found.append(json.loads(done.stdout.strip().split("\n")[-1]))
    assert len({one["found"] for found in figures.values() for one in found}) == 1
    for way, found in figures.items():
        middle = {key: round(statistics.median(one[key] for one in found), 1) for key in found[0]}
        print(way, json.dumps(middle))


if __name__ == "__main__":
    main()
