"""The job `quality_tradeoff`, small enough for seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.command import REPOSITORY

SAMPLES = REPOSITORY / "samples/instructions.jsonl"
SUBSETS = {"best_20": {"rows": 20}, "best_60": {"rows": 60}}


def make(folder: Path, rows: int = 160, **stages: Any) -> Path:
    """A configuration of the first samples, small enough for seconds."""
    folder.mkdir(exist_ok=True)
    source = folder / "rows.jsonl"
    source.write_text("".join(SAMPLES.read_text().splitlines(keepends=True)[:rows]))
    defaults: dict[str, Any] = {
        "split": {"validation": 0.1, "test": 0.15},
        "tokenise": {"text": {"max_tokens": 32}},
        "select-subsets": {"subsets": SUBSETS, "draws": 2},
        "train-subsets": {
            "model": {"n_layer": 1, "n_embd": 8, "n_head": 1, "n_positions": 32},
            "seeds": [1, 2],
            "modes": ["epochs"],
            "settings": {name: {"epochs": 2, "learning_rate": 1e-2} for name in SUBSETS},
            "evaluations": 2,
            "batches": {"step_rows": 8, "batch_tokens": 256},
        },
        "generations": {"prompts": 1, "samples": 2, "max_tokens": 4},
    }
    settings = {
        "name": "quality-tradeoff",
        "run_dir": str(folder / "run"),
        "unit_rows": 50,
        "source": {"path": str(source)},
        "stages": {name: {**value, **stages.pop(name, {})} for name, value in defaults.items()}
        | stages,
    }
    path = folder / "config.json"
    path.write_text(json.dumps(settings))
    return path
