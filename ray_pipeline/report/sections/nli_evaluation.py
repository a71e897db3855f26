"""How well models and controls tell the labels of held-out pairs, and what reflections did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ray_pipeline.core.numbers import finite
from ray_pipeline.core.text import NONE, count, plain, shortened
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.section import Section

STAGE = "evaluate-pairs"
PREDICTIONS = "exports/nli_predictions.csv"
#: Rows of the file of predictions that are searched for examples.
_MOST_ROWS = 20_000
_EXAMPLES = 5
_BASE = "base"


@dataclass(frozen=True)
class Value:
    """A figure with its interval."""

    text: str
    interval: str


@dataclass(frozen=True)
class ModelLine:
    """The figures of a predictor."""

    name: str
    accuracy: Value
    macro_f1: Value
    unparsable: str
    labels: list[str]


@dataclass(frozen=True)
class Comparison:
    """How two predictors differ."""

    model: str
    than: str
    alone: str
    p: str
    accuracy: Value
    macro_f1: Value


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix: a row for each true label."""

    name: str
    rows: list[tuple[str, list[int]]]


@dataclass(frozen=True)
class Kind:
    """Accuracy on the pairs of one kind."""

    name: str
    rows: str
    accuracy: list[str]


@dataclass(frozen=True)
class Split:
    """The figures of one split."""

    name: str
    rows: str
    groups: str
    models: list[ModelLine]
    comparisons: list[Comparison]
    confusions: list[Confusion]
    names: list[str]
    kinds: list[Kind]
    thoughts: list[ModelLine]
    thought_rows: str
    vote: str | None


@dataclass(frozen=True)
class Example:
    """A pair that tuning fixed or broke."""

    premise: str
    hypothesis: str
    label: str
    before: str
    after: str


@dataclass(frozen=True)
class NliEvaluation:
    """The section."""

    labels: list[str]
    train_pairs: str
    splits: list[Split]
    tuned: str | None
    fixed: list[Example]
    broken: list[Example]


def read(reader: ReportReader) -> NliEvaluation | None:
    """Read the figures; None where the run has not measured pairs."""
    found = reader.made_by(STAGE)
    if found is None or not isinstance(found.get("splits"), dict):
        return None
    labels = [plain(label) for label in found["labels"]]
    splits = [_split(name, each, found["labels"]) for name, each in found["splits"].items()]
    tuned = _tuned(found["splits"])
    fixed, broken = ([], []) if tuned is None else _examples(reader, tuned)
    return NliEvaluation(
        labels, count(found["train_pairs"]), splits, tuned and plain(tuned), fixed, broken
    )


def _split(name: str, found: Mapping[str, Any], labels: list[str]) -> Split:
    thoughts = found.get("thoughts") or {}
    names = list(found["models"])
    vote = (thoughts.get("vote") or {}).get("brier")
    return Split(
        name=plain(name),
        rows=count(found["rows"]),
        groups=count(found["groups"]),
        models=_models(found["models"], labels),
        comparisons=[_comparison(each) for each in found["comparisons"]],
        confusions=[
            Confusion(
                plain(model),
                [
                    (plain(label), [int(row[said]) for said in [*labels, ""]])
                    for label, row in figures["confusion"].items()
                ],
            )
            for model, figures in found["models"].items()
        ],
        names=[plain(each) for each in names],
        kinds=[
            Kind(
                plain(kind) or NONE,
                count(each["rows"]),
                [_share(each["accuracy"].get(model)) for model in names],
            )
            for kind, each in (found.get("by_kind") or {}).items()
        ],
        thoughts=_models(thoughts.get("models") or {}, labels),
        thought_rows=count(thoughts.get("rows", 0)),
        vote=None if finite(vote) is None else f"{vote:.3f}",
    )


def _models(found: Mapping[str, Any], labels: list[str]) -> list[ModelLine]:
    """The predictors, best macro-F1 first."""
    ordered = sorted(found.items(), key=lambda each: -each[1]["macro_f1"]["value"])
    return [
        ModelLine(
            plain(name),
            _value(each["accuracy"]),
            _value(each["macro_f1"]),
            _share(each["unparsable"]),
            [
                f"{each['by_label'][label]['precision']:.2f} / "
                f"{each['by_label'][label]['recall']:.2f}"
                for label in labels
            ],
        )
        for name, each in ordered
    ]


def _comparison(each: Mapping[str, Any]) -> Comparison:
    p = each["mcnemar_p"]
    return Comparison(
        plain(each["model"]),
        plain(each["than"]),
        f"{count(each['only_ours_right'])} : {count(each['only_theirs_right'])}",
        "< 0.0001" if p < 1e-4 else f"{p:.4f}",
        _value(each["accuracy"], signed=True),
        _value(each["macro_f1"], signed=True),
    )


def _value(found: Mapping[str, Any], signed: bool = False) -> Value:
    form = "+.3f" if signed else ".3f"
    low, high = finite(found["low"]), finite(found["high"])
    ends = "" if low is None or high is None else f"{low:{form}} to {high:{form}}"
    return Value(f"{found['value']:{form}}", ends)


def _share(value: Any) -> str:
    number = finite(value)
    return NONE if number is None else f"{100 * number:.1f} %"


def _tuned(splits: Mapping[str, Any]) -> str | None:
    """The tuned model with the best macro-F1 on the last split, where there is a base."""
    models = list(splits.values())[-1]["models"] if splits else {}
    tuned = [name for name in models if name.startswith("tuned-")]
    if _BASE not in models or not tuned:
        return None
    return max(tuned, key=lambda name: models[name]["macro_f1"]["value"])


def _examples(reader: ReportReader, tuned: str) -> tuple[list[Example], list[Example]]:
    """Pairs that only the tuned model has right, and pairs that only the base has right."""
    table = reader.csv(PREDICTIONS, _MOST_ROWS)
    needed = {"premise", "hypothesis", "label", _BASE, tuned}
    if table is None or not needed <= set(table.column_names):
        return [], []
    fixed: list[Example] = []
    broken: list[Example] = []
    for row in _rows(table.select(sorted(needed))):
        was, now = row[_BASE] == row["label"], row[tuned] == row["label"]
        kept = fixed if now and not was else broken if was and not now else None
        if kept is not None and len(kept) < _EXAMPLES:
            texts = (row[name] for name in ("premise", "hypothesis", "label", _BASE, tuned))
            kept.append(Example(*(shortened(plain(text or NONE), 300) for text in texts)))
    return fixed, broken


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


SECTION = Section("nli-evaluation", "Labels of held-out pairs", "nli_evaluation.html.j2", read)
