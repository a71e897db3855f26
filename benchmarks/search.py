"""A search on one cached teacher pass against the same search with the teacher beside each student.

    python benchmarks/search.py [--rows QUESTIONS.csv] [--trials 12] [--epochs 1] [--bfloat16]

Both sides are runs of the command on clusters of their own, on the same rows with the same teacher
(SmolLM2-135M), student (every third of its layers) and proposals, without pruning, so that both
train the same trials. Timed is the command from the teacher on: Ray's start, the teacher's pass
where it is cached, and all trials. The rounds alternate; the ratio is cached over online.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from _runs import BENCHMARKS, run_config

MODEL = "smollm2-135m-instruct"


def settings(folder: Path, options: argparse.Namespace, teacher: str) -> dict[str, Any]:
    """The configuration of one side."""
    loop = {"epochs": options.epochs, "schedule": "constant"}
    if options.bfloat16:
        loop["precision"] = "bfloat16"
    return {
        "name": "search",
        "job": str(BENCHMARKS / "search_job.py"),
        "run_dir": str(folder / "run"),
        "seed": 7,
        "source": {
            "path": str(options.rows),
            "columns": {"question": options.question, "answer": options.answer},
            "limit": options.limit,
        },
        "stages": {
            "split": {"validation": 0.1, "test": 0.0},
            "tokenise": {"model": MODEL},
            "train-teacher": {"model": MODEL, "method": "none"},
            "teacher-log-probs": {"k": 64 if teacher == "cached" else 0}
            | ({"precision": "bfloat16"} if options.bfloat16 else {}),
            "search": {"trials": options.trials, "pruning": None},
            "distil": {"teacher": teacher, "loop": loop, "batches": {"step_rows": 32}},
        },
        "export": {"formats": []},
    }


def side(folder: Path, options: argparse.Namespace, teacher: str) -> dict[str, float]:
    """Seconds of one side, and what its search found."""
    folder.mkdir(parents=True)
    config = settings(folder, options, teacher)
    run_config(folder, config, "--until", "train-teacher")
    began = time.perf_counter()
    run = run_config(folder, config, "--until", "search")
    seconds = time.perf_counter() - began
    found = json.loads((run / "metrics.json").read_text())["search"]
    stages = json.loads((run / "ledger.json").read_text())["stages"]
    spent = {stage["name"]: stage["seconds"] for stage in stages}
    return {
        "configured_loss": round(found["configured_loss"], 4),
        "seconds": round(seconds, 1),
        "search": round(spent["search"], 1),
        "training": round(found["seconds"], 1),
        "best_loss": round(found["best_loss"], 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=Path, default=BENCHMARKS.parent / "samples/qa.csv")
    parser.add_argument("--question", default="Question", help="the question's column")
    parser.add_argument("--answer", default="Answer", help="the answer's column")
    parser.add_argument("--limit", type=int, help="rows, at most")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--bfloat16", action="store_true", help="forward passes in bfloat16")
    options = parser.parse_args()
    options.rows = options.rows.absolute()
    seconds: dict[str, list[float]] = {"cached": [], "online": []}
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(options.rounds):
            for teacher, spent in seconds.items():
                found = side(Path(scratch) / f"{teacher}-{turn}", options, teacher)
                spent.append(found["seconds"])
                print(teacher, json.dumps(found), flush=True)
    medians = {teacher: statistics.median(spent) for teacher, spent in seconds.items()}
    print(f"cached over online: {medians['cached'] / medians['online']:.3f}")


if __name__ == "__main__":
    main()
