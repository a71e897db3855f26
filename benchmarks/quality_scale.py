"""Rows a second and memory of the quality scores, from reading Parquet to committed parts.

    python benchmarks/quality_scale.py --rows FILE.jsonl [FILE.jsonl ...] \
        [--number 100000 --number 1000000 --number 4000000] [--until write-subsets] \
        [--folder FOLDER]

The run ends with the scores, or with the stage of ``--until``: subsets of a hundredth, a tenth and
half of the rows, each with its control, as files. The corpus of each size is made of the real rows
by benchmarks/quality_corpus.py (before the clock starts). Memory is the peak of the largest process
of each kind, sampled (proportional set size: what processes share counts once).
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
from collections import Counter
from pathlib import Path
from typing import Any

import quality_corpus
import yaml
from map_stages import Memory

BENCHMARKS = Path(__file__).resolve().parent
SUBSETS = {"best": {"share": 0.01}, "better": {"share": 0.1}, "half": {"share": 0.5}}


def measure(corpus: Path, number: int, folder: Path, workers: int, until: str) -> dict[str, Any]:
    """One run over a corpus."""
    run_dir = folder / f"run-{number}"
    config = {
        "name": "quality-scale",
        "job": str(BENCHMARKS / "quality_scale_job.py"),
        "run_dir": str(run_dir),
        "source": {"path": str(corpus)},
        "until": until,
        "stages": {"score-quality": {"actors": workers}, "select-subsets": {"subsets": SUBSETS}},
        "export": {"formats": []},
    }
    path = folder / f"config-{number}.yaml"
    path.write_text(yaml.safe_dump(config))
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "ray_pipeline.cli.app", "run", str(path)],
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
    phases = ledger["phases"]
    shutil.rmtree(run_dir)
    return {
        "rows": number,
        "wall_seconds": round(wall, 1),
        "phases": {name: round(seconds, 1) for name, seconds in phases.items()},
        "rows_a_second": round(number / phases["execution"]),
        "us_a_row": {
            name: round(stage["seconds"] / number * 1e6, 1) for name, stage in stages.items()
        },
        "mib": _rounded(memory.peaks),
        "mib_without_mapped_files": _rounded(memory.own),
    }


def _rounded(peaks: Counter[str]) -> dict[str, int]:
    return {kind: round(mib) for kind, mib in peaks.most_common() if mib >= 1}


def main() -> None:
    """Measure each size in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, nargs="+", required=True)
    parser.add_argument("--number", type=int, action="append")
    parser.add_argument("--until", default="score-quality", help="the last stage")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where corpora are kept for the next time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        for number in options.number or [100_000, 1_000_000, 4_000_000]:
            corpus = folder / f"corpus-{number}.parquet"
            if not corpus.exists():
                quality_corpus.write(options.rows, number, corpus)
            found = measure(corpus, number, Path(scratch), options.workers, options.until)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
