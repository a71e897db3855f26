"""Kept rows that share a question or an answer and differ in the other one."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import pyarrow.compute as pc
from markupsafe import Markup

from ray_pipeline.core.rows import KEPT
from ray_pipeline.report.grouping import (
    LARGEST,
    MOST_ROWS,
    Group,
    Place,
    Tally,
    members,
    sizes_chart,
    texts_at,
)
from ray_pipeline.report.reading import MOST_UNITS, ReportReader, segments_with, some_units
from ray_pipeline.report.section import Section

#: Columns in which rows that share a text have the same value, and what they share.
_COLUMNS = {"same_question_group": "question", "same_answer_group": "answer"}


@dataclass(frozen=True)
class SharedText:
    """Rows that have one text in common and differ in another."""

    column: str
    #: What they share.
    text: str
    rows: int
    groups: int
    sizes: Markup
    largest: list[Group]
    #: Whether every row of the run was looked at.
    is_whole: bool


def read(reader: ReportReader) -> list[SharedText] | None:
    """Read the groups; None where there are none."""
    shared = [_shared(reader, column, text) for column, text in _COLUMNS.items()]
    return [one for one in shared if one is not None] or None


def _shared(reader: ReportReader, column: str, text: str) -> SharedText | None:
    """Kept rows grouped by a column of keys."""
    segments = segments_with(reader, column)
    if not segments:
        return None
    tallies: dict[str, Tally] = defaultdict(Tally)
    seen = 0
    units = some_units(reader)
    for unit, rows in reader.each_unit(segments[0], ["row_id", "status", column], units):
        if seen >= MOST_ROWS:
            break
        grouped = rows.filter(pc.and_(pc.equal(rows["status"], KEPT), pc.is_valid(rows[column])))
        seen += grouped.num_rows
        for row_id, key in zip(*(grouped[n].to_pylist() for n in ("row_id", column)), strict=True):
            tallies[key].add(Place(row_id, segments[0], unit))
    if not tallies:
        return None
    ranked = sorted(tallies.values(), key=lambda tally: (-tally.rows, tally.places[0].row_id))
    texts = texts_at(reader, ranked[:LARGEST])
    return SharedText(
        column=column,
        text=text,
        rows=seen,
        groups=len(tallies),
        sizes=sizes_chart(tally.rows for tally in tallies.values()),
        largest=[Group(tally.rows, members(tally, texts)) for tally in ranked[:LARGEST]],
        is_whole=seen < MOST_ROWS and len(reader.units) <= MOST_UNITS,
    )


SECTION = Section(
    "shared-texts", "Rows that share a question or an answer", "shared_texts.html.j2", read
)
