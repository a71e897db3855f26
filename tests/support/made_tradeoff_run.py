"""The small made run with an experiment after it: its analysis, and what its models wrote."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import orjson
from support.made_cells import VOCABULARY, records
from support.made_run import MadeRun, made_run

from ray_pipeline.evaluate.experiment.analysis import Question, analyse
from ray_pipeline.evaluate.experiment.cells import Cell
from ray_pipeline.evaluate.statistics import estimate
from ray_pipeline.stages.experiment.generations import OF_ALL, OF_EACH

STAGES = ("train-subsets", "generations", "analyse")


def made_tradeoff_run(
    path: str,
    made: Sequence[dict[str, Any]] | None = None,
    target: float | None = None,
    completion: str = "It is {n},\nas {subset} says.",
) -> MadeRun:
    """Write the run.

    Args:
        path: where to.
        made: the experiment's records.
        target: the configured perplexity.
        completion: what the models write.
    """
    run = made_run(path)
    cells = [Cell.from_json(one) for one in (made or records(modes=("epochs", "tokens")))]
    analysis = analyse(cells, Question(VOCABULARY, target=target, resamples=5))
    run.storage.write_bytes("experiment/analysis.json", orjson.dumps(analysis))
    generations = _generations(run, [cell for cell in cells if cell.model], completion)
    run.add_artifact_stage("train-subsets", {})
    run.add_artifact_stage("generations", generations)
    run.add_artifact_stage("analyse", {"cells": len(cells)})
    run.write_config({"name": "made-run", "stages": {n: {} for n in ("tidy", "ask", *STAGES)}})
    return run.save()


def _generations(run: MadeRun, cells: Sequence[Cell], completion: str) -> dict[str, Any]:
    text = io.StringIO()
    names = ("cell", "subset", "mode", "row_id", "instruction", "reference", "sample", "completion")
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    for cell in cells:
        for row in range(3):
            for sample in range(1, 6):
                about = completion.replace("{n}", str(sample)).replace("{subset}", cell.subset)
                values = (cell.name, cell.subset, cell.mode, f"row{row}", f"What is {row}?")
                line = (*values, f"It is {row}.", sample, "" if sample == 5 else about)
                writer.writerow(dict(zip(names, line, strict=True)))
    run.storage.write_bytes("experiment/generations.csv", text.getvalue().encode())
    measure = estimate([0.4, 0.5, 0.6]).to_json()
    each: dict[str, Any] = dict.fromkeys((*OF_EACH, *OF_ALL), measure)
    each |= {"instruction_following_by_chance": 0.1, "ended": 0.75, "empty": 3, "tokens": 9.0}
    return {
        "prompts": 3,
        "samples": 5,
        "cells": {one.name: {"subset": one.subset, "mode": one.mode, **each} for one in cells},
        "references": {"coherence": 0.9, "instruction_following": 0.8},
    }
