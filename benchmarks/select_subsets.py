"""Subsets of a million rows, selected through files on a cluster, against one full sort in memory.

    python benchmarks/select_subsets.py [--rows 1000000] [--rounds 3] [--quota 0.3]

The rows are made: short texts, scores of 500 values only, so that nearly all of them tie, a dozen
sources of unequal size, and every twentieth row held out. Both sides read the same Parquet files,
hash the same texts to break ties, and rank all rows twice: by quality, and in the random order of
the controls. Ours is the stage's own decision on a cluster of two CPUs, from the rows' files to
decisions on storage; the other side is pandas in one process. The ranks and the members of every
subset are compared row by row.

Memory is the peak of resident memory above what was there before the work: of ours, the largest
process and all processes of the cluster together; of pandas, its process. With a quota, only ours
is measured: a full sort does not say what it selects.
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
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from ray_pipeline.core.storage import Storage
from ray_pipeline.core.tables import REF
from ray_pipeline.engine.stored_tables import StepExecutor, StoredTables
from ray_pipeline.stage import Settings
from ray_pipeline.stages.subsets.select import SelectSubsets

FILE_ROWS = 62_500
SUBSETS = {
    "ultra_high": {"share": 0.01},
    "high": {"share": 0.1},
    "medium": {"share": 0.5},
    "above_median": {"quantile": 0.5},
}
COLUMNS = ["row_id", "instruction", "response", "quality", "source", "split"]


def write_rows(folder: Path, rows: int) -> None:
    rng = np.random.default_rng(7)
    for number in range(-(-rows // FILE_ROWS)):
        size = min(FILE_ROWS, rows - number * FILE_ROWS)
        words = rng.integers(0, 1_000, (size, 24))
        texts = [" ".join(f"w{word}" for word in row) for row in words.tolist()]
        ids = rng.bytes(16 * size).hex()
        table = {
            "row_id": [ids[i * 32 : (i + 1) * 32] for i in range(size)],
            "instruction": [text[:40] for text in texts],
            "response": [text[40:] for text in texts],
            "quality": rng.integers(0, 500, size) / 500,
            "source": [f"source {n}" for n in np.minimum(rng.geometric(0.2, size), 12).tolist()],
            "split": np.where(rng.random(size) < 0.05, "test", "train"),
        }
        pq.write_table(pa.table(table), folder / f"{number:04d}.parquet")


def stage(quota: float | None) -> SelectSubsets:
    share = None if quota is None else {"column": "source", "max_share": quota}
    config = SelectSubsets.Config.model_validate({"subsets": SUBSETS, "quota": share})
    return SelectSubsets().bound(config, Settings(seed=7))


class Keys:
    """The stage's keys of the rows in some Parquet files, a part each."""

    def __init__(self, paths: list[str], rows: int, quota: float | None) -> None:
        self.paths, self.rows, self.quota = paths, rows, quota

    @property
    def parts(self) -> int:
        return len(self.paths)

    def load(self, storage: Storage, part: int) -> pa.Table:
        rows = pq.read_table(self.paths[part], columns=COLUMNS)
        refs = (part << 32) + np.arange(rows.num_rows, dtype=np.int64)
        return stage(self.quota).keys(rows.append_column(REF, pa.array(refs)))


def through_files(folder: Path, rows: int, quota: float | None) -> dict[str, Any]:
    import ray

    from ray_pipeline.engine.decide import run_tasks

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    ray.get([ray.remote(lambda: __import__("pandas")).remote() for _ in range(4)])
    watch = Watch(psutil.Process().children(recursive=True))
    paths = [str(path) for path in sorted((folder / "rows").glob("*.parquet"))]
    work = folder / f"work-{time.time_ns()}"
    work.mkdir()
    storage = Storage(str(work))
    began = time.perf_counter()
    executor = StepExecutor(storage, "work", run_tasks, tuple(range(len(paths))))
    made = stage(quota).decide(StoredTables(executor, Keys(paths, rows, quota)))
    saved = made.by_chunk().saved()._saved()
    seconds = time.perf_counter() - began
    memory = watch.stop()
    ray.shutdown()
    parts = [saved.load(storage, part) for part in range(saved.parts)]
    write_found(folder / "ours.parquet", pa.concat_tables(parts))
    return {"seconds": seconds, **memory}


def in_one_process(folder: Path, rows: int, quota: float | None) -> dict[str, Any]:
    import pandas as pd

    watch = Watch([psutil.Process()])
    began = time.perf_counter()
    paths = [str(path) for path in sorted((folder / "rows").glob("*.parquet"))]
    source = Keys(paths, rows, None)
    keys = [source.load(Storage(str(folder)), part).to_pandas() for part in range(source.parts)]
    pool = pd.concat(keys, ignore_index=True)
    best = pool.sort_values(["worse", "tie", "row_id"], ignore_index=True)
    best["quality_rank"] = np.arange(len(best))
    best = best.sort_values(["lot", "row_id"], ignore_index=True)
    drawn = np.arange(len(best))
    quality = np.sort(best["worse"].to_numpy())
    sizes = {}
    for name, subset in stage(None).config.subsets.items():
        sizes[name] = (
            int((quality <= quality[subset.last_rank(len(best))]).sum())
            if subset.is_threshold
            else subset.of(len(best))
        )
    for name, size in sizes.items():
        best[name] = best["quality_rank"] < size
        best[f"{name}-random"] = drawn < size
    seconds = time.perf_counter() - began
    memory = watch.stop()
    names = [name + end for end in ("", "-random") for name in sizes]
    best = best.sort_values("ref", ignore_index=True)
    members = best[names].to_numpy()
    lists = [[names[i] for i in np.flatnonzero(row)] for row in members]
    found = {REF: best["ref"], "quality_rank": best["quality_rank"], "subsets": lists}
    write_found(folder / "theirs.parquet", pa.table(found))
    return {"seconds": seconds, **memory}


def write_found(path: Path, found: pa.Table) -> None:
    pq.write_table(found.select([REF, "quality_rank", "subsets"]).sort_by(REF), path)


class Watch:
    """Peak memory of some processes, and of those that they start, above that of now."""

    def __init__(self, processes: list[psutil.Process]) -> None:
        self._processes = processes
        self._base = self._now()
        self._one = self._all = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _now(self) -> dict[int, float]:
        found = {}
        for process in {*self._processes, *psutil.Process().children(recursive=True)}:
            try:
                found[process.pid] = process.memory_full_info().pss
            except psutil.Error:
                continue
        return found

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            now = self._now()
            above = {pid: size - self._base.get(pid, 0.0) for pid, size in now.items()}
            self._one = max([self._one, *above.values()])
            self._all = max(self._all, sum(above.values()))

    def stop(self) -> dict[str, float]:
        self._over.set()
        self._thread.join()
        return {"largest_mib": self._one / 2**20, "all_mib": self._all / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quota", type=float)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        way = globals()[options.way]
        print(json.dumps(way(options.folder, options.rows, options.quota)))
        return
    ways = ["through_files"] + ["in_one_process"] * (options.quota is None)
    figures: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "rows").mkdir()
        write_rows(Path(folder) / "rows", options.rows)
        for _ in range(options.rounds):
            for way, found in figures.items():
                command = [sys.executable, __file__, "--rows", str(options.rows), "--way", way]
                command += ["--folder", folder]
                command += [] if options.quota is None else ["--quota", str(options.quota)]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                found.append(json.loads(done.stdout.strip().split("\n")[-1]))
            if options.quota is None:
                ours, theirs = (pq.read_table(f"{folder}/{w}.parquet") for w in ("ours", "theirs"))
                assert ours["quality_rank"].equals(theirs["quality_rank"])
                assert ours["subsets"].to_pylist() == theirs["subsets"].to_pylist()
                print(f"the same {ours.num_rows:,} ranks and lists of subsets")
    for way, found in figures.items():
        middle = {key: round(statistics.median(one[key] for one in found), 1) for key in found[0]}
        print(way, json.dumps(middle), [round(one["seconds"], 1) for one in found])


if __name__ == "__main__":
    main()
