"""A run of scored rows in one segment, and stages that make files of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from support.made_run import MadeRun

from ray_pipeline.core.rows import with_envelope
from ray_pipeline.rundir.account import StageAccount

CONFIG = {
    "name": "made-scored",
    "source": {"columns": {"instruction": "i", "response": "r"}},
    "stages": {},
}


def made_scores(rows: int, seed: int = 5) -> dict[str, list[float | None]]:
    """Scores that go together to some degree; the judge saw one row in four, ifd not all."""
    random = np.random.default_rng(seed)
    good = random.uniform(size=rows)
    noise = random.normal(size=(7, rows)) * 0.2
    parts = {
        "clarity": np.round(good * 4) / 4,
        "response_quality": np.clip(good + noise[0], 0, 1),
        "diversity": np.clip(0.7 + noise[1] / 2, 0, 1),
        "complexity": np.round(random.uniform(size=rows), 1),
    }
    weights = (0.25, 0.35, 0.2, 0.2)
    quality = sum(w * values for w, values in zip(weights, parts.values(), strict=True))
    ifd = np.clip(0.9 - 0.5 * good + noise[2], 0.01, 3)
    judge = np.where(np.arange(rows) % 4 == 0, np.clip(good + noise[3], 0, 1), np.nan)
    scores = {**parts, "quality": quality, "ifd": ifd, "judge_score": judge}
    scores["ifd"][3::50] = np.nan
    scores["novelty"] = np.clip(0.4 + noise[4], 0, 1)
    return {n: [None if v != v else float(v) for v in one] for n, one in scores.items()}


def made_scored_run(
    folder: str,
    scores: Mapping[str, Sequence[Any]] | None = None,
    rows: int = 300,
    unit_rows: int = 64,
    texts: Sequence[str] | None = None,
    stages: Sequence[str] = ("score-quality", "weigh-scores"),
    metrics: Mapping[str, Any] | None = None,
) -> MadeRun:
    """Write the run.

    Args:
        folder: where to.
        scores: columns; by default those of `made_scores`.
        rows: how many.
        unit_rows: rows of a unit.
        texts: instructions; the responses repeat them.
        stages: which wrote the rows, all together.
        metrics: ``metrics.json``; its stages made files after these.
    """
    names = ["source", *stages]
    run = MadeRun(folder, "made-scored", [names], CONFIG, "data/in.jsonl")
    columns = made_scores(rows) if scores is None else scores
    instructions = texts or [f"Explain the number {i}." for i in range(rows)]
    data = {name: _column(values) for name, values in columns.items()}
    data["instruction"] = pa.array(instructions, pa.string())
    data["response"] = pa.array(
        [f"{text} It comes after {i - 1}." for i, text in enumerate(instructions)], pa.string()
    )
    table = pa.table(data)
    for first in range(0, rows, unit_rows):
        unit = run.add_unit(min(unit_rows, rows - first))
        ids = [run.row_id(first + i) for i in range(unit.rows)]
        accounts = [StageAccount(name, rows_in=unit.rows, kept=unit.rows) for name in names]
        run.commit(unit, with_envelope(table.slice(first, unit.rows), ids), accounts)
    run.finish()
    for stage, figures in (metrics or {}).items():
        run.add_artifact_stage(stage, figures)
    return run.save()


def _column(values: Sequence[Any]) -> pa.Array:
    is_text = any(isinstance(value, str) for value in values)
    return pa.array(values, pa.string() if is_text else pa.float64())
