"""The subsets that a run wrote: their sizes, their scores and where their rows come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray_pipeline.core.numbers import finite
from ray_pipeline.core.text import plain, shortened
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.section import Section

STAGE = "write-subsets"
#: Sources that are named for a subset, and characters of a name.
_SOURCES, _NAME = 5, 60


@dataclass(frozen=True)
class SubsetLine:
    """A subset's or a control's line of the table."""

    name: str
    is_control: bool
    rows: float | None
    tokens: float | None
    lowest: float | None
    mean: float | None
    highest: float | None
    #: Whether there were not as many rows as the configuration asks for.
    is_smaller: bool
    #: Rows by source, as the stage sorted them.
    sources: list[tuple[str, float]]
    other_sources: int


def read(reader: ReportReader) -> list[SubsetLine] | None:
    """The subsets of ``metrics.json``, in its order; None where none was written."""
    figures = (reader.made_by(STAGE) or {}).get("subsets")
    subsets = figures if isinstance(figures, dict) else {}
    lines = [_line(str(n), subset) for n, subset in subsets.items() if isinstance(subset, dict)]
    return lines or None


def _line(name: str, figures: dict[str, Any]) -> SubsetLine:
    sources = figures.get("by_source")
    by_source = [
        (shortened(plain(source), _NAME), rows)
        for source, number in (sources.items() if isinstance(sources, dict) else ())
        if (rows := finite(number)) is not None
    ]
    tokens = (finite(figures.get(key)) for key in ("tokens", "quality_tokens"))
    return SubsetLine(
        name=shortened(plain(name), _NAME),
        is_control=figures.get("control") is True,
        rows=finite(figures.get("rows")),
        tokens=next((number for number in tokens if number is not None), None),
        lowest=finite(figures.get("score_min")),
        mean=finite(figures.get("score_mean")),
        highest=finite(figures.get("score_max")),
        is_smaller=figures.get("smaller_than_asked") is True,
        sources=by_source[:_SOURCES],
        other_sources=max(0, len(by_source) - _SOURCES),
    )


SECTION = Section("subsets", "Subsets", "subsets.html.j2", read)
