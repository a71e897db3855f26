"""How long the texts are: as they came in, and as they were kept in the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from ray_pipeline.core.rows import KEPT
from ray_pipeline.report.drawing import Axis, binned, histogram
from ray_pipeline.report.reading import ReportReader, some_units
from ray_pipeline.report.section import Section
from ray_pipeline.rundir.reader import SegmentFolder, text_columns
from ray_pipeline.rundir.units import Unit

#: Units are added until they have this many source rows.
_ROWS = 50_000
_BINS = 24


@dataclass(frozen=True)
class Spread:
    """How long some texts are, in words."""

    texts: int
    median: int
    #: One text in twenty is shorter than `low`, and one in twenty longer than `high`.
    low: int
    high: int

    @classmethod
    def of(cls, lengths: Counter[int]) -> Spread:
        """The spread of lengths, given how often each occurs."""
        at = [_quantile(lengths, share) for share in (0.5, 0.05, 0.95)]
        return cls(lengths.total(), *at)


@dataclass(frozen=True)
class ColumnLengths:
    """One text column before and after."""

    column: str
    before: Spread
    after: Spread
    svg: Markup


@dataclass(frozen=True)
class Lengths:
    """The section."""

    columns: list[ColumnLengths]
    #: The stages after which the texts were measured first: with the source where it stands alone.
    first: tuple[str, ...]
    last: tuple[str, ...]
    #: Units that were looked at, of all.
    units: int
    of_units: int


def read(reader: ReportReader) -> Lengths | None:
    """Measure texts; None when there are no two segments, or no text."""
    if len(reader.segments) < 2:
        return None
    first, last = reader.segments[0], reader.segments[-1]
    schema = reader.schema(last)
    columns = [n for n in text_columns(reader, schema) if n in reader.schema(first).names]
    units = _units(reader)
    before, after = (_measured(reader, segment, units, columns) for segment in (first, last))
    measured = [
        ColumnLengths(
            name,
            Spread.of(before[name]),
            Spread.of(after[name]),
            _chart(before[name], after[name]),
        )
        for name in columns
        if before[name] and after[name]
    ]
    if not measured:
        return None
    return Lengths(measured, first.stages, last.stages, len(units), len(reader.units))


def _units(reader: ReportReader) -> list[Unit]:
    chosen: list[Unit] = []
    rows = 0
    for unit in some_units(reader):
        if rows >= _ROWS:
            break
        chosen.append(unit)
        rows += unit.rows
    return chosen


def _measured(
    reader: ReportReader, segment: SegmentFolder, units: list[Unit], columns: list[str]
) -> dict[str, Counter[int]]:
    """Words of every text that came in (the first segment) or was kept (the last one)."""
    is_first = segment is reader.segments[0]
    words: dict[str, Counter[int]] = {name: Counter() for name in columns}
    for unit in units:
        rows = reader.columns(segment, unit, [*columns, "status"])
        if rows is None:
            continue
        if not is_first:
            rows = rows.filter(pc.equal(rows["status"], KEPT))
        for name in columns:
            words[name].update(_words(rows[name]))
    return words


def _words(texts: pa.ChunkedArray) -> list[int]:
    # Counting matches makes no list of words: a cell may be very long.
    words: list[int] = pc.count_substring_regex(pc.drop_null(texts), r"\S+").to_pylist()
    return words


def _chart(before: Counter[int], after: Counter[int]) -> Markup:
    longest = max(_quantile(before, 0.98), _quantile(after, 0.98), 4)
    step = -(-(longest + 1) // _BINS)
    bins = -(-(longest + 1) // step)
    high = bins * step
    axis = Axis(0, high)
    ticks = [(0, "0"), (high / 2, f"{high / 2:.0f}"), (high, f"≥ {high}")]
    series = [
        ("before", binned(axis, bins, before.items()), before.total()),
        ("outline", binned(axis, bins, after.items()), after.total()),
    ]
    return histogram(axis, ticks, series, "words")


def _quantile(lengths: Counter[int], share: float) -> int:
    wanted = share * (lengths.total() - 1)
    seen = 0
    for length in sorted(lengths):
        seen += lengths[length]
        if seen > wanted:
            return length
    return 0


SECTION = Section("lengths", "Text lengths before and after", "lengths.html.j2", read)
