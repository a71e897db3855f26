"""A run of scored rows, made with the engine's own writers: units of rows, one segment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from support.made_run import MadeRun

from ray_pipeline.core.rows import source_row_id, with_envelope
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.account import StageAccount
from ray_pipeline.rundir.layout import part_path
from ray_pipeline.rundir.ledger import Done, Ledger, LedgerEntry
from ray_pipeline.rundir.parts import write_part
from ray_pipeline.rundir.units import Unit, unit_id

FILE_ID = "d" * 32
CONFIG = "name: made-scored\nsource: {columns: {instruction: i, response: r}}\nstages: {}\n"


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
    run = MadeRun(Storage(folder), ledger=Ledger("made-scored"))
    columns = made_scores(rows) if scores is None else scores
    data = pa.table({name: _column(values) for name, values in columns.items()})
    said = texts or [f"Explain the number {i}." for i in range(rows)]
    responses = [f"{text} It comes after {i - 1}." for i, text in enumerate(said)]
    data = data.append_column("instruction", pa.array(said, pa.string()))
    data = data.append_column("response", pa.array(responses, pa.string()))
    total = StageAccount("source", rows_in=rows, kept=rows)
    path = f"stages/{len(stages):02d}-{stages[-1]}"
    for first in range(0, rows, unit_rows):
        number = min(unit_rows, rows - first)
        uid = unit_id(FILE_ID, first, number)
        run.units.append(Unit(uid, "data/in.jsonl", "jsonl", FILE_ID, 0, first, number))
        ids = [source_row_id(FILE_ID, first + i) for i in range(number)]
        mine = with_envelope(data.slice(first, number), ids)
        accounts = [StageAccount(name, rows_in=number, kept=number) for name in _names(stages)]
        write_part(
            run.storage, part_path(path, uid), mine, fingerprint=f"print-{stages[-1]}",
            input_digest="input", accounts=accounts,
        )  # fmt: skip
    made = list((metrics or {}).keys())
    for index, name in enumerate([*_names(stages), *made]):
        account = StageAccount(name, rows_in=total.rows_in, kept=total.kept)
        run.accounts[name] = account
        run.ledger.entries.append(LedgerEntry(index, f"print-{name}", account))
    done = [run.accounts[name] for name in _names(stages)]
    Done(f"print-{stages[-1]}", "input", "digest", len(run.units), done).save(run.storage, path)
    if metrics is not None:
        run.storage.write_bytes("metrics.json", orjson.dumps(metrics))
    run.storage.write_bytes("config.yaml", CONFIG.encode())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([asdict(unit) for unit in run.units]), sink)
    run.storage.write_bytes("units.parquet", sink.getvalue())
    return run.save()


def _names(stages: Sequence[str]) -> list[str]:
    return ["source", *stages]


def _column(values: Sequence[Any]) -> pa.Array:
    is_text = any(isinstance(value, str) for value in values)
    return pa.array(values, pa.string() if is_text else pa.float64())
