"""The job `prompt_retrieval`, small enough for seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from support.command import REPOSITORY

SAMPLES = REPOSITORY / "samples"
DEMO = REPOSITORY / "configs/prompt_retrieval/demo.yaml"
GENRES = {"Fantasy", "Horror", "Spy Thriller", "Western"}
THEMES = {"Betrayal", "Survival", "Revenge", "Grief"}


def rows_of(name: str) -> list[dict[str, Any]]:
    """The rows of a sample file."""
    return [json.loads(line) for line in (SAMPLES / name).read_text().splitlines()]


def chosen(row: dict[str, Any]) -> bool:
    """Whether a row is about the few genres and themes."""
    return row["genre"] in GENRES | {None} and row["theme"] in THEMES | {None}


def make(folder: Path, keep: Callable[[dict[str, Any]], bool] = chosen, **stages: Any) -> Path:
    """A configuration of the sample's contexts and queries about a few genres and themes."""
    folder.mkdir(exist_ok=True)
    for name in ("writing_prompts.jsonl", "writing_queries.jsonl"):
        lines = [json.dumps(row) + "\n" for row in rows_of(name) if keep(row)]
        (folder / name).write_text("".join(lines[:160]))
    unrelated = [
        {"question": f"What is the capital of {a}?", "answer": f"{b} is the capital of {a}."}
        for a, b in (("France", "Paris"), ("Spain", "Madrid"), ("Italy", "Rome"), ("Peru", "Lima"))
    ]
    lines = [json.dumps(row) + "\n" for row in [*unrelated, unrelated[0]]]
    (folder / "unrelated.jsonl").write_text("".join(lines))
    demo = yaml.safe_load(DEMO.read_text())
    settings = {
        "name": "prompt-retrieval",
        "run_dir": str(folder / "run"),
        "unit_rows": 100,
        "sources": {
            "unrelated": {"path": str(folder / "unrelated.jsonl")},
            "corpus": {"path": str(folder / "writing_prompts.jsonl")},
            "queries": {"path": str(folder / "writing_queries.jsonl")},
        },
        "stages": {
            "split-families": demo["stages"]["split-families"],
            "tune-retriever": {
                "tuning": {"epochs": 1, "batch_pairs": 32, "loss": {"matryoshka": [384, 64]}},
                "pairs_per_query": 1,
                "hard_negatives": 0,
            },
            **stages,
        },
    }
    path = folder / "config.json"
    path.write_text(json.dumps(settings))
    return path
