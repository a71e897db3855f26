"""What the benchmarks share: a run of the asking job as a user would start it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

BENCHMARKS = Path(__file__).resolve().parent


def run_asking(
    folder: Path, texts: Sequence[str], llm: dict[str, Any], template: str, **keys: Any
) -> Path:
    """Run the asking job on a cluster of its own; returns the run directory.

    Raises:
        SystemExit: the run failed.
    """
    folder.mkdir(parents=True)
    source = folder / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "prompts").mkdir()
    prompt = {"user": template, "answer": {"format": "text", "allow_truncated": True}}
    (folder / "prompts" / "ask.yaml").write_text(yaml.safe_dump(prompt))
    config = {
        "name": "asking",
        "job": str(BENCHMARKS / "asking_job.py"),
        "run_dir": str(folder / "run"),
        "source": {"path": str(source)},
        "llms": {"model": llm},
        "stages": {"ask": {"llm": "model", "prompt": "ask"}},
        "export": {"formats": []},
        **keys,
    }
    return run_config(folder, config)


def run_config(folder: Path, config: dict[str, Any], *options: str) -> Path:
    """Run a configuration on a cluster of its own; returns the run directory.

    Raises:
        SystemExit: the run failed.
    """
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-m", "ray_pipeline.cli.app", "run", str(path), *options],
        env={**os.environ, "RAY_ADDRESS": "local"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"the run failed:\n{done.stdout}\n{done.stderr}")
    return Path(config["run_dir"])


def last_commit(run_dir: Path) -> float:
    """When the last unit of the ask stage was committed, in seconds since the epoch."""
    return max(p.stat().st_mtime for p in run_dir.glob("stages/01-ask/rows/part-*.parquet"))


def records(run_dir: Path) -> list[dict[str, Any]]:
    """Every response of the run."""
    return [
        json.loads(line)
        for path in run_dir.glob("responses/**/*.jsonl")
        for line in path.read_text().splitlines()
    ]
