"""The models that were evaluated: the quality of their answers, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray_pipeline.core.numbers import finite
from ray_pipeline.core.text import NONE, plain
from ray_pipeline.evaluate.text import COST, QUALITY, Metric
from ray_pipeline.report.model_differences import (
    ModelDifference,
    OverSeeds,
    read_differences,
    read_seeds,
)
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.section import Section

#: The stage, named as in the ledger, and the models whose difference is the gain of distilling.
STAGE = "evaluate"
DISTILLED, ALONE = "student", "student-alone"
#: Models in the order of the table, and their labels; others come after them.
LABELS = {
    "teacher": "teacher",
    "student-before": "student before training",
    "student": "student, distilled",
    "student-alone": "student, trained alone",
}


@dataclass(frozen=True)
class Cell:
    """A figure of a model."""

    text: str
    #: Relative to the teacher's; None for the teacher itself, and without one.
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
    #: Independent questions among the rows that were answered; None in older runs.
    questions: int | None
    models: list[ModelLine]
    #: The same models on paraphrases of these rows, and how many of these were answered.
    versions: list[ModelLine]
    version_rows: int | None
    quality: list[Metric]
    cost: list[Metric]
    #: What distilling gained, in a sentence; None unless both students were evaluated.
    verdict: str | None
    #: The same over several trainings of both; None where each was trained once.
    seeds: str | None
    #: How far the distilled student is from its teacher; None unless both were evaluated.
    usable: str | None
    #: sacrebleu's, without which BLEU means little; empty where models have different ones.
    signature: str


def read(reader: ReportReader) -> Evaluation | None:
    """Read the evaluation of a run; None where no model was evaluated."""
    figures = reader.made_by(STAGE) or {}
    by_name = figures.get("models")
    if not isinstance(by_name, dict):
        return None
    models = {n: by_name[n] for n in in_order(by_name) if isinstance(by_name[n], dict)}
    if not models:
        return None
    quality, cost = _measured(QUALITY, models), _measured(COST, models)
    reworded = {n: m["versions"] for n, m in models.items() if isinstance(m.get("versions"), dict)}
    gains = {
        one.metric: one
        for one in read_differences(figures)
        if (one.model, one.than) == (DISTILLED, ALONE)
    }
    return Evaluation(
        rows=_number(figures.get("rows")),
        test_rows=_number(figures.get("test_rows")),
        questions=_number(figures.get("questions")),
        models=[_line(name, models, quality, cost) for name in models],
        versions=[_line(name, reworded, quality, []) for name in reworded],
        version_rows=_number(figures.get("version_rows")),
        quality=quality,
        cost=cost,
        verdict=verdict(models.get(DISTILLED), models.get(ALONE), gains),
        seeds=over_seeds(read_seeds(figures)),
        usable=usable(models.get("teacher"), models.get(DISTILLED)),
        signature=_signature(models),
    )


def _number(value: Any) -> int | None:
    number = finite(value)
    return None if number is None else int(number)


def _measured(metrics: Sequence[Metric], models: Mapping[str, Any]) -> list[Metric]:
    """The metrics that any model has a figure for."""
    return [
        metric
        for metric in metrics
        if any(finite(figures.get(metric.key)) is not None for figures in models.values())
    ]


def in_order(names: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Names of models: those with a label first, in its order."""
    return [*(n for n in LABELS if n in names), *(n for n in names if n not in LABELS)]


def label(model: str) -> str:
    """A model's name for a reader."""
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
    return NONE if value is None else metric.shown(value)


def _times(
    metric: Metric, figures: Mapping[str, Any], teacher: Mapping[str, Any] | None
) -> str | None:
    mine, whole = finite(figures.get(metric.key)), finite((teacher or {}).get(metric.key))
    return f"{mine / whole:.2f} ×" if mine is not None and whole else None


def verdict(
    distilled: Mapping[str, Any] | None,
    alone: Mapping[str, Any] | None,
    differences: Mapping[str, ModelDifference] | None = None,
) -> str | None:
    """What distilling gained over training alone, in one sentence, also where it lost.

    Figures that read the same are called equal, so that the sentence never says more than the
    table shows; a difference whose interval includes none is called unclear.

    Args:
        distilled: figures of the distilled student.
        alone: figures of the student trained alone.
        differences: with their intervals, by the metric's key; empty for older runs.
    """
    if not isinstance(distilled, Mapping) or not isinstance(alone, Mapping):
        return None
    verbs: dict[str, list[str]] = {name: [] for name in _VERBS}
    for metric in QUALITY:
        mine, others = finite(distilled.get(metric.key)), finite(alone.get(metric.key))
        if mine is None or others is None:
            continue
        texts = metric.shown(mine), metric.shown(others)
        difference = (differences or {}).get(metric.key)
        interval = (
            f"; {difference.text}, 95 % interval {difference.interval}"
            if (difference is not None and difference.interval)
            else ""
        )
        if texts[0] == texts[1]:
            verbs["changed nothing in"].append(f"{metric.label} ({texts[0]})")
            continue
        is_better = (mine > others) is metric.higher_is_better
        verb = "gained in" if is_better else "lost in"
        if difference is not None and not difference.is_clear:
            verb = "made no clear difference in"
        verbs[verb].append(f"{metric.label} ({texts[0]} against {texts[1]}{interval})")
    return _sentence(verbs)


#: What distilling may have done, in the order of the sentence.
_VERBS = ("gained in", "lost in", "made no clear difference in", "changed nothing in")


def _sentence(verbs: Mapping[str, list[str]]) -> str | None:
    said = {verb: metrics for verb, metrics in verbs.items() if metrics}
    if not said:
        return None
    if list(said) == ["changed nothing in"]:
        equal = _listed(said["changed nothing in"])
        return f"Distilled and trained alone, the student measures the same: {equal}."
    parts = [f"{verb} {_listed(metrics)}" for verb, metrics in said.items()]
    return f"Over the same student trained alone, distilling {_listed(parts)}."


def over_seeds(seeds: OverSeeds | None) -> str | None:
    """What distilling gained over several trainings, in a sentence."""
    if seeds is None:
        return None
    number = len(seeds.ratios)
    better = sum(ratio < 1 for ratio in seeds.ratios)
    rows = f", all but the first without {seeds.left_out:.0%} of the questions" * bool(
        seeds.left_out
    )
    clear = "" if seeds.is_clear else " The interval includes no difference."
    return (
        f"Over {number} trainings of each student with other seeds{rows}, the distilled one has "
        f"the lower perplexity in {better}. Its perplexity relative to the one alone: "
        f"{seeds.text} over trainings.{clear}"
    )


#: Times the teacher's perplexity up to which a student is called usable.
_USABLE = 3.0


def usable(teacher: Mapping[str, Any] | None, student: Mapping[str, Any] | None) -> str | None:
    """How far the student's perplexity is from its teacher's, and what follows, in a sentence."""
    whole, mine = (finite((figures or {}).get("perplexity")) for figures in (teacher, student))
    if not whole or mine is None:
        return None
    times = mine / whole
    factor = f"{times:.2f} ×" if times < 1000 else "over 1,000 ×"
    text = f"The distilled student's perplexity is {factor} its teacher's"
    if times <= _USABLE:
        return f"{text}."
    return (
        f"{text}: too far for its answers to be of use. It keeps too little of the teacher for the "
        "rows and steps that it was given; keep more layers, or train it longer. What distilling "
        "gains here need not hold for a student that is."
    )


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _signature(models: Mapping[str, Mapping[str, Any]]) -> str:
    signatures = [
        str(figures["bleu_signature"])
        for figures in models.values()
        if figures.get("bleu_signature")
    ]
    return plain(signatures[0]) if signatures and len(set(signatures)) == 1 else ""


SECTION = Section("evaluation", "Models: quality and cost", "evaluation.html.j2", read)
