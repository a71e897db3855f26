"""The subsets that a run wrote: their sizes, their scores and where their rows come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray_pipeline.core.text import plain, shortened
from ray_pipeline.rundir.reader import RunReader

STAGE = "write-subsets"
#: Sources that are named of a subset, and characters of a name.
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


def subset_lines(reader: RunReader) -> list[SubsetLine]:
    """The subsets of ``metrics.json``, in its order; none where none was written."""
    figures = (reader.made_by(STAGE) or {}).get("subsets")
    subsets = figures if isinstance(figures, dict) else {}
    return [_line(str(name), one) for name, one in subsets.items() if isinstance(one, dict)]


def _line(name: str, figures: dict[str, Any]) -> SubsetLine:
    sources = figures.get("by_source")
    by_source = [
        (shortened(plain(source), _NAME), rows)
        for source, number in (sources.items() if isinstance(sources, dict) else ())
        if (rows := _number(number)) is not None
    ]
    tokens = (_number(figures.get(key)) for key in ("tokens", "quality_tokens"))
    return SubsetLine(
        name=shortened(plain(name), _NAME),
        is_control=figures.get("control") is True,
        rows=_number(figures.get("rows")),
        tokens=next((number for number in tokens if number is not None), None),
        lowest=_number(figures.get("score_min")),
        mean=_number(figures.get("score_mean")),
        highest=_number(figures.get("score_max")),
        is_smaller=figures.get("smaller_than_asked") is True,
        sources=by_source[:_SOURCES],
        other_sources=max(0, len(by_source) - _SOURCES),
    )


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and value == value else None
