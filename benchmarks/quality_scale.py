"""Rows a second and memory of the quality scores, from reading Parquet to committed parts.

    python benchmarks/quality_scale.py --rows FILE.jsonl [FILE.jsonl ...] \
        [--number 100000 --number 1000000 --number 4000000] [--folder FOLDER]

The corpus of each size is made of the real rows by benchmarks/quality_corpus.py (before the clock
starts). Memory is the peak of each kind of process, sampled (proportional set size: what processes
share counts once).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import quality_corpus
import yaml
from map_stages import Memory

BENCHMARKS = Path(__file__).resolve().parent


def measure(corpus: Path, number: int, folder: Path, workers: int) -> dict[str, float]:
    """One run over a corpus."""
    run_dir = folder / f"run-{number}"
    config = {
        "name": "quality-scale",
        "job": str(BENCHMARKS / "quality_scale_job.py"),
        "run_dir": str(run_dir),
        "source": {"path": str(corpus)},
        "stages": {"score-quality": {"actors": workers}},
        "export": {"formats": []},
    }
    path = folder / f"config-{number}.yaml"
    path.write_text(yaml.safe_dump(config))
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "ray_pipeline.cli", "run", str(path)],
        env={**os.environ, "RAY_ADDRESS": "local"},
        stdout=subprocess.DEVNULL,
    )
    memory = Memory(process.pid)
    memory.start()
    if process.wait():
        raise SystemExit(f"the run failed with {process.returncode}")
    wall = time.monotonic() - began
    ledger = json.loads((run_dir / "ledger.json").read_text())
    stages = {stage["name"]: stage for stage in ledger["stages"]}
    assert stages["score-quality"]["kept"] == number
    seconds = stages["score-quality"]["seconds"]
    execution = ledger["phases"]["execution"]
    shutil.rmtree(run_dir)
    return {
        "rows": number,
        "wall_seconds": round(wall, 1),
        "execution_seconds": round(execution, 1),
        "rows_a_second": round(number / execution),
        "scorer_us_a_row": round(seconds / number * 1e6, 1),
        "driver_mib": round(memory.driver),
        "worker_mib": round(memory.worker),
    }


def main() -> None:
    """Measure each size in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, nargs="+", required=True)
    parser.add_argument("--number", type=int, action="append")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where corpora are kept for the next time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        for number in options.number or [100_000, 1_000_000, 4_000_000]:
            corpus = folder / f"corpus-{number}.parquet"
            if not corpus.exists():
                quality_corpus.write(options.rows, number, corpus)
            print(json.dumps(measure(corpus, number, Path(scratch), options.workers)), flush=True)


if __name__ == "__main__":
    main()
