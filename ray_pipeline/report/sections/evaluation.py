"""The models that were evaluated: what their answers are worth, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray_pipeline.core.text import NONE, figure, large, latency, plain, share, size
from ray_pipeline.rundir.reader import RunReader
from ray_pipeline.rundir.trainings import finite

#: The stage, named as in the ledger, and the models whose difference is what distilling gained.
STAGE = "evaluate"
DISTILLED, ALONE = "student", "student-alone"
#: Models in the order of the table, and what they are called; others come after them.
LABELS = {
    "teacher": "teacher",
    "student-before": "student before training",
    "student": "student, distilled",
    "student-alone": "student, trained alone",
}


def _percent(value: float) -> str:
    return share(value, 1)


@dataclass(frozen=True)
class Metric:
    """A column of the table.

    Attributes:
        key: in ``metrics.json``.
        name: at the head of the column, and in sentences.
        higher: whether more is better; None: it is no measure of quality.
        text: its values as a person reads them.
    """

    key: str
    name: str
    higher: bool | None
    text: Callable[[float], str] = figure


QUALITY = (
    Metric("perplexity", "perplexity", False),
    Metric("bleu", "BLEU", True, lambda value: f"{value:.2f}"),
    Metric("sentence_bleu", "sentence BLEU", True, lambda value: f"{value:.4f}"),
    Metric("rouge_l", "ROUGE-L", True, lambda value: f"{value:.4f}"),
    Metric("exact_match", "exact match", True, _percent),
)
COST = (
    Metric("parameters", "parameters", None, large),
    Metric("bytes", "on disk", None, size),
    Metric("latency_seconds", "latency", None, latency),
    Metric("tokens_per_second", "tokens/s", None, figure),
)


@dataclass(frozen=True)
class Cell:
    """A figure of a model."""

    text: str
    #: In times the teacher's; None for the teacher itself, and without one.
    times_teacher: str | None = None


@dataclass(frozen=True)
class ModelLine:
    """A model's line of the table."""

    label: str
    quality: list[Cell]
    cost: list[Cell]


@dataclass(frozen=True)
class Evaluation:
    """The section."""

    #: Rows that were answered, and those that perplexity was measured on.
    rows: int | None
    test_rows: int | None
    models: list[ModelLine]
    quality: list[Metric]
    cost: list[Metric]
    #: What distilling gained, in a sentence; None where there are not both students.
    verdict: str | None
    #: Without which BLEU means little; empty without any.
    signature: str


def evaluation(reader: RunReader) -> Evaluation | None:
    """Read the evaluation of a run; None where no model was evaluated."""
    figures = reader.made_by(STAGE) or {}
    models = figures.get("models")
    if not isinstance(models, dict):
        return None
    found = {name: models[name] for name in in_order(models) if isinstance(models[name], dict)}
    if not found:
        return None
    quality, cost = (
        [m for m in metrics if any(finite(one.get(m.key)) is not None for one in found.values())]
        for metrics in (QUALITY, COST)
    )
    rows, test_rows = (finite(figures.get(name)) for name in ("rows", "test_rows"))
    return Evaluation(
        rows=int(rows) if rows is not None else None,
        test_rows=int(test_rows) if test_rows is not None else None,
        models=[_line(name, found, quality, cost) for name in found],
        quality=quality,
        cost=cost,
        verdict=verdict(found.get(DISTILLED), found.get(ALONE)),
        signature=_signature(found),
    )


def in_order(names: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Names of models: those with a label first, in its order."""
    return [*(n for n in LABELS if n in names), *(n for n in names if n not in LABELS)]


def label(model: str) -> str:
    """What a model is called."""
    return LABELS.get(model, plain(model))


def _line(
    name: str, models: Mapping[str, Any], quality: Sequence[Metric], cost: Sequence[Metric]
) -> ModelLine:
    teacher = models.get("teacher") if name != "teacher" else None
    return ModelLine(
        label(name),
        [Cell(_text(metric, models[name])) for metric in quality],
        [
            Cell(_text(metric, models[name]), _times(metric, models[name], teacher))
            for metric in cost
        ],
    )


def _text(metric: Metric, figures: Mapping[str, Any]) -> str:
    value = finite(figures.get(metric.key))
    return NONE if value is None else metric.text(value)


def _times(
    metric: Metric, figures: Mapping[str, Any], teacher: Mapping[str, Any] | None
) -> str | None:
    mine, whole = finite(figures.get(metric.key)), finite((teacher or {}).get(metric.key))
    return f"{mine / whole:.2f} ×" if mine is not None and whole else None


def verdict(distilled: Mapping[str, Any] | None, alone: Mapping[str, Any] | None) -> str | None:
    """What distilling gained over training alone, in one sentence, also where it lost.

    Figures that read the same are called equal, so that the sentence never says more than the
    table shows.
    """
    if not isinstance(distilled, Mapping) or not isinstance(alone, Mapping):
        return None
    gained: list[str] = []
    lost: list[str] = []
    equal: list[str] = []
    for metric in QUALITY:
        mine, others = finite(distilled.get(metric.key)), finite(alone.get(metric.key))
        if mine is None or others is None:
            continue
        texts = metric.text(mine), metric.text(others)
        if texts[0] == texts[1]:
            equal.append(f"{metric.name} ({texts[0]})")
        else:
            is_better = (mine > others) is metric.higher
            (gained if is_better else lost).append(f"{metric.name} ({texts[0]} against {texts[1]})")
    return _sentence(gained, lost, equal)


def _sentence(gained: list[str], lost: list[str], equal: list[str]) -> str | None:
    if not gained and not lost:
        if not equal:
            return None
        return f"Distilled and trained alone, the student measures the same: {_listed(equal)}."
    said = [("gained in", gained), ("lost in", lost), ("changed nothing in", equal)]
    verbs = [f"{verb} {_listed(metrics)}" for verb, metrics in said if metrics]
    return f"Over the same student trained alone, distilling {_listed(verbs)}."


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _signature(models: Mapping[str, Mapping[str, Any]]) -> str:
    signatures = [
        str(one["bleu_signature"]) for one in models.values() if one.get("bleu_signature")
    ]
    return plain(signatures[0]) if signatures and len(set(signatures)) == 1 else ""
