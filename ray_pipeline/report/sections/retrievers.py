"""What retrievers score on held-out queries: words, tags, static and sentence embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from ray_pipeline.core.numbers import finite
from ray_pipeline.core.text import NONE, count, figure, plain
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.section import Section

#: The stages whose figures are shown, and the file of the first.
STAGE, GOLDEN = "measure-retrievers", "write-golden"
BASELINES = "retrieval/baselines.json"
METRICS = (
    "mrr@10",
    "precision@1",
    "precision@5",
    "recall@10",
    "recall@50",
    "ndcg@5",
    "ndcg@10",
    "map",
)
_GROUPS = ("mrr@10", "precision@1", "ndcg@5")
_TITLES = {"text": "On the text alone", "tagged": "With the tags"}


@dataclass(frozen=True)
class Value:
    """A figure, and its interval below it."""

    text: str
    interval: str = ""


@dataclass(frozen=True)
class Line:
    """A retriever, or a group of queries."""

    name: str
    queries: str
    values: list[Value]
    note: str = ""


@dataclass(frozen=True)
class View:
    """The retrievers on contexts of one form."""

    title: str
    best: str
    lines: list[Line]


@dataclass(frozen=True)
class Retrievers:
    """The section."""

    sentences: list[str]
    metrics: Sequence[str]
    groups: Sequence[str]
    views: list[View]
    base: str
    by_kind: list[Line]
    by_new: list[Line]
    by_hand: list[Line]
    speed: list[tuple[str, str, str, str]]
    worst: list[Mapping[str, str]]


def read(reader: ReportReader) -> Retrievers | None:
    """Read the figures of the retrievers; None where the run has measured none."""
    if reader.made_by(STAGE) is None:
        return None
    result = stored_json(reader, BASELINES)
    if result is None:
        return None
    text = result["views"]["text"]["retrievers"]
    base = text[result["base"]]
    return Retrievers(
        sentences=_sentences(reader.made_by(GOLDEN) or {}),
        metrics=METRICS,
        groups=_GROUPS,
        views=[_view(_TITLES[name], view) for name, view in result["views"].items()],
        base=plain(result["base"]),
        by_kind=_groups(base["by_kind"]),
        by_new=_groups(base["by_new"]),
        by_hand=[
            _line(name, one["by_hand"]["queries"], one["by_hand"]["metrics"], METRICS)
            for name, one in text.items()
            if "by_hand" in one
        ],
        speed=[
            (
                plain(name),
                figure(one["index_seconds"]) if one["index_seconds"] else NONE,
                count(one["queries_per_second"]),
                plain(", ".join(f"{k} {v}" for k, v in one["chosen"].items())) or NONE,
            )
            for name, one in text.items()
        ],
        worst=[
            {name: plain(text) for name, text in line.items() if isinstance(text, str)}
            for line in result["worst"]
        ],
    )


def stored_json(reader: ReportReader, path: str) -> dict[str, Any] | None:
    """A JSON object of the run; None where it is missing or damaged: its stage writes it again."""
    try:
        found = orjson.loads(reader.storage.read_bytes(path) or b"")
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _sentences(golden: Mapping[str, Any]) -> list[str]:
    if not golden:
        return []
    queries, contexts = golden["queries"], golden["contexts"]
    sides = ("train", "validation", "test")

    def split(numbers: Mapping[str, int]) -> str:
        return ", ".join(f"{count(numbers.get(side, 0))} {side}" for side in sides)

    n = {name: count(value) for name, value in golden.items() if isinstance(value, int)}
    return [
        f"{count(sum(contexts.values()))} contexts ({split(contexts)}) and "
        f"{count(sum(queries.values()))} queries ({split(queries)}); {n['pairs']} pairs are "
        f"exported: {n['relevant_pairs']} relevant, {n['partly_relevant_pairs']} partly, "
        f"{n['irrelevant_pairs']} not.",
        "No genre, theme or wording that a test query asks for or with is in training: the leak "
        "check found nothing. Test queries are ranked against all contexts; those that are trained "
        "on are distractors.",
        f"Of {n['mined']} mined hard negatives, {n['mined_above_positive']} score above their "
        f"query's best positive; {n['candidates_judged_relevant']} candidates in their rank range "
        "were at least partly relevant and were not taken.",
    ]


def _view(title: str, view: Mapping[str, Any]) -> View:
    against = view["against_best"]
    lines = []
    for name, one in view["retrievers"].items():
        gain = against.get(name, {}).get("ndcg@10")
        note = "" if gain is None else f"{gain['mean']:+.3f}, {p_text(gain['p_adjusted'])}"
        lines.append(_line(name, one["queries"], one["metrics"], METRICS, note))
    return View(title, plain(view["best"]), lines)


def _groups(groups: Mapping[str, Any]) -> list[Line]:
    return [_line(name, one["queries"], one, _GROUPS) for name, one in groups.items()]


def _line(
    name: str, queries: int, metrics: Mapping[str, Any], names: Sequence[str], note: str = ""
) -> Line:
    return Line(plain(name), count(queries), [value_of(metrics.get(m)) for m in names], note)


def value_of(estimate: Mapping[str, Any] | None) -> Value:
    """A mean with its interval."""
    mean = finite(estimate["mean"]) if estimate else None
    if estimate is None or mean is None:
        return Value(NONE)
    low, high = finite(estimate["low"]), finite(estimate["high"])
    return Value(f"{mean:.3f}", "" if low is None or high is None else f"{low:.3f} to {high:.3f}")


def p_text(value: float) -> str:
    """A p-value as text."""
    return "p < 0.001" if value < 0.001 else f"p {value:.3f}"


SECTION = Section("retrievers", "Retrievers", "retrievers.html.j2", read)
