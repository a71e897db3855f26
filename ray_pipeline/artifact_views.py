"""What `status` says of stages that make files: trainings, searches, evaluations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from rich.table import Table
from rich.text import Text

from ray_pipeline.report.evaluation import in_order
from ray_pipeline.report.formats import count, duration, figure, one_line, plain
from ray_pipeline.report.search import best_parameters, default_loss
from ray_pipeline.run_reader import RunReader
from ray_pipeline.run_trainings import Training, finite, trainings

#: Steps that the time of a step is taken from, and figures and characters of any other stage.
_STEPS, _FIGURES, _VALUE = 50, 6, 40


def made(reader: RunReader) -> Table | None:
    """A line for each stage that made files, and for a training under way; None without any."""
    trained = {one.stage: one for one in trainings(reader)}
    lines = {}
    for entry in reader.ledger.entries:
        name = entry.account.name
        if figures := reader.made_by(name):
            lines[name] = "; ".join(_finished(figures))
    running = reader.ledger.status == "running" and not reader.driver_is_gone()
    for training in trained.values():
        if not training.is_finished:
            lines[training.stage] = "; ".join(_unfinished(training, running))
    if not lines:
        return None
    table = Table("made by", "", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.columns[1].overflow = "fold"
    for name, line in lines.items():
        table.add_row(Text(name), Text(line))
    return table


def _finished(figures: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(figures.get("models"), dict):
        return _evaluated(figures)
    if isinstance(figures.get("history"), list):
        return _searched(figures)
    if "pool" in figures and isinstance(figures.get("subsets"), dict):
        return _selected(figures)
    if "steps" in figures:
        return _trained(figures)
    return (
        f"{one_line(name, _VALUE)} {one_line(value, _VALUE)}"
        for name, value in list(figures.items())[:_FIGURES]
    )


def _selected(figures: Mapping[str, Any]) -> Iterator[str]:
    for name, one in figures["subsets"].items():
        if isinstance(one, dict) and not one.get("control"):
            rows, least = finite(one.get("rows")), finite(one.get("score_min"))
            few = " (fewer than asked)" if one.get("smaller_than_asked") else ""
            yield f"{plain(name)} {count(rows or 0)} rows{few}, quality from {figure(least)}"
    if (pool := finite(figures["pool"])) is not None:
        yield f"of {count(pool)} rows to train on"


def _trained(figures: Mapping[str, Any]) -> Iterator[str]:
    if not figures["steps"]:
        yield plain(figures.get("stopped") or "no steps")
        return
    loss, best = finite(figures.get("validation_loss")), finite(figures.get("best_step"))
    steps = finite(figures["steps"])
    if loss is not None:
        yield f"validation loss {figure(loss)}" + (f" at step {count(best)}" if best else "")
    ended = f", ended by {plain(figures['stopped'])}" if figures.get("stopped") else ""
    yield (f"{count(steps)} steps" if steps is not None else "trained") + ended
    if (rows := finite(figures.get("rows"))) is not None:
        yield f"{count(rows)} rows"


def _unfinished(training: Training, running: bool) -> Iterator[str]:
    steps, total = training.steps, training.total_steps
    state = "training" if running else "not finished"
    yield f"{state}: step {count(steps)}" + (f" of {count(total)}" if total else "")
    for name in ("loss", "validation_loss"):
        if points := training.points(name):
            yield f"{name.replace('_', ' ')} {figure(points[-1][1])}"
    seconds = [value for _, value in training.points("seconds")[-_STEPS:]]
    if running and seconds and total > steps:
        yield f"at most {duration(median(seconds) * (total - steps))} of steps to come"


def _evaluated(figures: Mapping[str, Any]) -> Iterator[str]:
    models = figures["models"]
    for metric, name in (("perplexity", "perplexity"), ("rouge_l", "ROUGE-L")):
        values = [
            f"{plain(model)} {figure(value)}"
            for model in in_order(models)
            if isinstance(models[model], dict)
            and (value := finite(models[model].get(metric))) is not None
        ]
        if values:
            yield f"{name}: {', '.join(values)}"
    if (rows := finite(figures.get("rows"))) is not None:
        yield f"{count(rows)} rows"


def _searched(figures: Mapping[str, Any]) -> Iterator[str]:
    yield f"{count(len(figures['history']))} trials"
    best, default = finite(figures.get("best_loss")), default_loss(figures)
    if best is not None:
        configured = f" (as configured: {figure(default)})" if default is not None else ""
        yield f"lowest loss {figure(best)}{configured}"
    if values := best_parameters(figures).items():
        yield ", ".join(f"{plain(n)} {one_line(value, _VALUE)}" for n, value in values)
