"""Before and after fine-tuning an embedding model, on the same held-out queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ray_pipeline.core.numbers import finite
from ray_pipeline.core.text import NONE, count, plain
from ray_pipeline.report.drawing import Axis, Frame, curve, plot
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.section import Section
from ray_pipeline.report.sections.retrievers import METRICS, Value, p_text, stored_json, value_of

STAGE = "compare-retrievers"
COMPARISON = "retrieval/comparison.json"
#: Name of the model before training, and the metrics of the verdict.
BASE = "before"
VERDICT = ("mrr@10", "precision@1", "ndcg@5")
_TITLES = {
    "text": "On the text alone",
    "by_hand": "Queries written by hand, on the text alone",
    "tagged": "With the tags",
}


@dataclass(frozen=True)
class Line:
    """A model, or a group of queries, with its figures."""

    name: str
    values: list[Value]
    more: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """A table of all models, and one of what they gained."""

    title: str
    models: list[Line]
    gains: list[Line]


@dataclass(frozen=True)
class Tuning:
    """The section."""

    verdict: str
    metrics: Sequence[str]
    of_verdict: Sequence[str]
    parts: list[Part]
    by_kind: list[Line]
    by_new: list[Line]
    control: list[Value]
    unrelated: list[Line]
    questions: str
    cut: list[Line]
    trainings: list[Line]
    examples: list[tuple[str, list[tuple[str, str]]]]
    curve: Markup | None


def read(reader: ReportReader) -> Tuning | None:
    """Read the comparison; None where the run has none."""
    if reader.made_by(STAGE) is None:
        return None
    result = stored_json(reader, COMPARISON)
    if result is None:
        return None
    models, tuned = result["models"], result["tuned"]
    own = models[tuned[0]]["text"]["gains"]
    return Tuning(
        verdict=plain(result["verdict"]),
        metrics=METRICS,
        of_verdict=VERDICT,
        parts=[_part(_TITLES[p], p, models) for p in _TITLES if p in models[BASE]],
        by_kind=_groups(own["by_kind"]),
        by_new=_groups(own["by_new"]),
        control=[_gain(result["against_control"].get(metric)) for metric in VERDICT]
        if result["against_control"]
        else [],
        unrelated=[_unrelated(name, one) for name, one in models.items() if "unrelated" in one],
        questions=count(result["unrelated"] or 0),
        cut=[
            Line(f"{plain(name)}, first {size} dimensions", [value_of(m[v]) for v in VERDICT])
            for name, one in models.items()
            for size, m in one["cut"].items()
        ],
        trainings=[_training(name, one) for name, one in result["training"].items()],
        examples=[
            (title, [_example(line) for line in result["examples"][key]])
            for key, title in (("won", "won most"), ("lost", "lost most"))
        ],
        curve=_curve(result["training"]),
    )


def _part(title: str, part: str, models: Mapping[str, Any]) -> Part:
    lines = [
        Line(plain(name), [value_of(one[part]["metrics"].get(m)) for m in METRICS])
        for name, one in models.items()
    ]
    found = []
    for name, one in models.items():
        if name != BASE:
            own = one[part]["gains"]
            first = own["mrr@10"]
            more = (f"{count(first['won'])} / {count(first['lost'])}", count(first["families"]))
            found.append(Line(plain(name), [_gain(own[metric]) for metric in VERDICT], more))
    return Part(title, lines, found)


def _gain(gain: Mapping[str, Any] | None) -> Value:
    if gain is None:
        return Value(NONE)
    low, high = finite(gain["low"]), finite(gain["high"])
    ends = [] if low is None or high is None else [f"{low:+.3f} to {high:+.3f}"]
    p = gain.get("p_adjusted")
    ends += [] if p is None else [p_text(p)]
    return Value(f"{gain['mean']:+.3f}", ", ".join(ends))


def _groups(groups: Mapping[str, Any]) -> list[Line]:
    return [
        Line(plain(name), [_gain(one.get(m)) for m in VERDICT], (count(one["mrr@10"]["queries"]),))
        for name, one in groups.items()
    ]


def _unrelated(name: str, one: Mapping[str, Any]) -> Line:
    gain = one.get("unrelated_gains", {}).get("mrr@10")
    values = [value_of(one["unrelated"]["mrr@10"]), value_of(one["unrelated"]["recall@10"])]
    return Line(plain(name), [*values, _gain(gain)])


def _training(name: str, one: Mapping[str, Any]) -> Line:
    best = one["history"][one["best_epoch"]]
    values = [Value(f"{best[m]:.3f}") for m in ("ndcg@10", "mrr@10", "precision@1")]
    more = (count(one["pairs"]), count(one["steps"]), str(one["best_epoch"]), plain(one["stopped"]))
    return Line(plain(name), values, more)


def _example(line: Mapping[str, Any]) -> tuple[str, str]:
    return plain(line["query"]), f"{line['before']:.2f} → {line['after']:.2f}"


def _curve(trainings: Mapping[str, Any]) -> Markup | None:
    """The validation figure over epochs; controls are dashed."""
    points = {
        name: [(float(at["epoch"]), at["ndcg@10"]) for at in one["history"]]
        for name, one in trainings.items()
    }
    flat = [point for own in points.values() for point in own]
    if len(flat) < 2:
        return None
    high = max(y for _, y in flat)
    frame = Frame(Axis(0, max(x for x, _ in flat)), Axis(0, high * 1.1 or 1.0), "epoch")
    shapes = [
        curve(frame, "dashed" if name.endswith("-shuffled") else "main", own, "marked")
        for name, own in points.items()
    ]
    return plot(frame, *shapes)


SECTION = Section("retriever-tuning", "Fine-tuning", "retriever_tuning.html.j2", read)
