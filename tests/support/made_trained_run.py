"""The small made run with trainings after it: split, tokenise, search, three trainings, evaluation.

Rows pass through unchanged; the files of the stages are written in the stages' formats.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from support.made_run import FILE_ID, MadeRun, made_run

from ray_pipeline.core.rows import source_row_id
from ray_pipeline.rundir.trainings import Curve

#: Behind source, tidy, ask and augment.
STAGES = (
    "split",
    "tokenise",
    "search",
    "train-teacher",
    "teacher-log-probs",
    "distil",
    "train-alone",
    "evaluate",
)
TRAININGS = ("train-teacher", "distil", "train-alone")
#: Loss after the last step of each training.
ENDS = {"train-teacher": 0.75, "distil": 2.25, "train-alone": 2.5}
QUALITY = {
    "student-alone": (12.2, 8.5, 0.15, 0.33, 0.125),
    "student": (9.5, 10.25, 0.2, 0.33, 0.0625),
    "teacher": (2.125, 30.0, 0.5, 0.75, 0.5),
    "student-before": (99_000.0, 0.0, 0.01, 0.02, 0.0),
}
#: As the search writes it: ``lowest`` is the lowest loss until then.
HISTORY: list[dict[str, Any]] = [
    {
        "trial": number,
        "status": status,
        "loss": loss,
        "lowest": lowest,
        "alpha": a,
        "learning_rate": r,
    }
    for number, status, loss, lowest, a, r in (
        (0, "finished", 2.4, 2.4, 0.5, 6.795e-5),
        (1, "pruned", 2.6, 2.4, 0.9, 2e-4),
        (2, "finished", 2.3, 2.3, 0.25, 1e-4),
        (3, "diverged", None, 2.3, 0.1, 0.5),
        (4, "finished", 2.35, 2.3, 0.3, 9e-5),
    )
]


CONFIG: dict[str, Any] = {
    "name": "made-run",
    "llms": {"writer": {"model": "tiny-writer"}},
    "stages": {
        "tidy": {},
        "ask": {"llm": "writer"},
        "augment": {},
        **{stage: {} for stage in STAGES},
        "tokenise": {"text": {"max_tokens": 128}},
    },
}


def metrics(steps: int) -> dict[str, Any]:
    """``metrics.json`` of the whole run."""
    trained = {
        "stopped": "epochs",
        "training_loss": 2.125,
        "steps": steps,
        "epochs": 3,
        "best_step": steps,
        "rows": 1590,
        "tokens": 106_840,
        "answer_tokens": 5_580,
        "real_token_share": 0.7779,
    }
    names = ("perplexity", "bleu", "sentence_bleu", "rouge_l", "exact_match")
    models = {
        name: {
            **dict(zip(names, values, strict=True)),
            "bleu_signature": "nrefs:1|case:mixed|tok:13a",
            "parameters": 134_515_008 if name == "teacher" else 62_000_000,
            "bytes": 538_000_000 if name == "teacher" else 248_000_000,
            "latency_seconds": 0.08 if name == "teacher" else 0.02,
            "tokens_per_second": 50.0 if name == "teacher" else 200.0,
        }
        for name, values in QUALITY.items()
    }
    best = {"alpha": 0.25, "beta": 0.2, "temperature": 0.7, "learning_rate": 1e-4}
    search = {"best_parameters": best, "best_loss": 2.3, "configured_loss": 2.4}
    return {
        "search": {**search, "history": HISTORY},
        **{name: {**trained, "validation_loss": ENDS[name]} for name in TRAININGS},
        "evaluate": {"models": models, "rows": 16},
    }


def write_curve(run: MadeRun, stage: str, steps: int, every: int, total: int | None = None) -> None:
    """A learning curve that falls to the stage's end; only the distilled student has a KL term."""
    curve = Curve(run.storage, f"{folder(stage)}/work/curve.jsonl")
    for step in range(1, steps + 1):
        loss = ENDS[stage] + 9 * math.exp(-5 * step / steps)
        kl = loss / 2 if stage == "distil" else 0.0
        curve.add(
            {
                "step": step,
                "total_steps": total or steps,
                "epoch": 0,
                "loss": loss / 2 + 0.1 * kl if kl else loss,
                "cross_entropy": loss,
                "kl": kl,
                "gradient_norm": 30 / step,
                "learning_rate": 6.795e-5 * (1 - step / (total or steps)),
                "answer_tokens": 100,
                "tokens": 2_000,
                "seconds": 2.0,
            }
        )
        if step % every == 0:
            worse = ENDS[stage] + (steps - step) / steps
            curve.add({"step": step, "validation_loss": worse, "best": True})
    curve.save()


def folder(stage: str) -> str:
    return f"stages/{4 + STAGES.index(stage):02d}-{stage}"


def write_answers(
    run: MadeRun, rows: Sequence[Mapping[str, Any]] | None = None, number: int = 16
) -> None:
    """``validation_results.csv``; by default the students tie, win and lose in turns."""
    if rows is None:
        rows = [answers(position) for position in range(number)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    run.storage.write_bytes("exports/validation_results.csv", text.getvalue().encode())


def answers(position: int, **texts: str) -> dict[str, Any]:
    """One row of it."""
    lead = (position % 3 - 1) * (position + 1) / 100
    row: dict[str, Any] = {
        "row_id": source_row_id(FILE_ID, position),
        "question": f"What is {position}?",
        "reference": f"reference {position}",
    }
    scores = {"teacher": 0.5, "student-before": 0.5, "student": 0.5 + lead, "student-alone": 0.5}
    for model, score in scores.items():
        row[f"{model}_answer"] = f'{model} says "{position}",\nat length'
        row[f"{model}_sentence_bleu"] = score
    return row | texts


def made_trained_run(
    path: str,
    steps: int = 60,
    every: int = 10,
    until: str = "evaluate",
    change: Mapping[str, Any] | None = None,
) -> MadeRun:
    """Write the run.

    Args:
        path: where to.
        steps: of each training.
        every: steps between evaluations.
        until: the last stage that ran.
        change: replaces entries of ``metrics.json``.
    """
    run = made_run(path)
    run.write_config(CONFIG)
    figures = metrics(steps) | dict(change or {})
    counts = {
        "split": {"test": 2, "train": 7, "validation": 1},
        "tokenise": {"answers_cut": 3, "tokens_cut": 41},
    }
    for stage in STAGES[: STAGES.index(until) + 1]:
        if stage in TRAININGS:
            write_curve(run, stage, steps, every)
        run.add_artifact_stage(stage, figures.get(stage), **counts.get(stage, {}))
    if until == "evaluate":
        write_answers(run)
    return run.save()
