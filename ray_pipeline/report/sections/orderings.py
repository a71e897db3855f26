"""Whether scores predict what models learn: subsets of one size, chosen by several scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from ray_pipeline.core.numbers import finite
from ray_pipeline.core.text import NONE, count, figure, plain
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.section import Section
from ray_pipeline.report.sections.tradeoff import ANALYSIS, STAGE, Value


@dataclass(frozen=True)
class SubsetLine:
    """A subset of one size."""

    name: str
    quality: str
    tokens: str
    loss: Value


@dataclass(frozen=True)
class ScoreLine:
    """A score against the test loss."""

    name: str
    subsets: str
    with_length_over_rows: str
    with_length: str
    with_loss: Value
    at_fixed_length: Value


@dataclass(frozen=True)
class Orderings:
    """The section."""

    sentences: list[str]
    rows: str
    updates: str
    subsets: list[SubsetLine]
    scores: list[ScoreLine]
    length_with_loss: str
    not_compared: list[str]


def read(reader: ReportReader) -> Orderings | None:
    """Read the comparison of orderings; None where the run has none."""
    if reader.made_by(STAGE) is None:
        return None
    try:
        analysis = orjson.loads(reader.storage.read_bytes(ANALYSIS) or b"")
    except orjson.JSONDecodeError:
        return None  # deleted or truncated: the stage writes it again
    found = analysis.get("orderings") if isinstance(analysis, dict) else None
    if not isinstance(found, dict):
        return None
    subsets = sorted(found["subsets"], key=lambda one: one["loss"]["mean"])
    return Orderings(
        sentences=[plain(sentence) for sentence in found["sentences"]],
        rows=count(found["rows"]),
        updates=plain(found["effort"]["updates"]),
        subsets=[_subset(one) for one in subsets],
        scores=[_score(line) for line in found["scores"]],
        length_with_loss=_signed(found["length"]["with_loss"]),
        not_compared=[plain(f"{name}: {why}") for name, why in found["not_compared"].items()],
    )


def _subset(one: Mapping[str, Any]) -> SubsetLine:
    loss, means = one["loss"], one["means"]
    low, high = finite(loss["low"]), finite(loss["high"])
    ends = "" if low is None or high is None else f"{figure(low)} to {figure(high)}"
    return SubsetLine(
        plain(one["subset"]),
        figure(finite(means.get("quality"))),
        figure(finite(means.get("length"))),
        Value(figure(finite(loss["mean"])), ends),
    )


def _score(line: Mapping[str, Any]) -> ScoreLine:
    return ScoreLine(
        name=plain(line["score"]),
        subsets=count(line["subsets"]),
        with_length_over_rows=_signed(line["with_length_over_rows"]),
        with_length=_signed(line["with_length"]),
        with_loss=Value(_signed(line["with_loss"]), _p(line["p_adjusted"])),
        at_fixed_length=Value(
            _signed(line["with_loss_at_fixed_length"]), _p(line["p_adjusted_at_fixed_length"])
        ),
    )


def _signed(correlation: float | None) -> str:
    return NONE if correlation is None else f"{correlation:+.2f}"


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return "p < 0.001" if value < 0.001 else f"p {value:.3f}"


SECTION = Section("orderings", "Does the score predict?", "orderings.html.j2", read)
