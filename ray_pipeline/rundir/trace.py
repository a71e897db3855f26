"""The history of one row: where it was read, and what each stage did to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.core.arrow_types import json_rows
from ray_pipeline.core.rows import ENVELOPE_COLUMNS, KEPT, created_row_id, source_row_id
from ray_pipeline.rundir.layout import SOURCE
from ray_pipeline.rundir.reader import Answer, RunReader, SegmentFolder
from ray_pipeline.rundir.units import Unit

#: A stage that creates more rows than this from one row is not recognised as their creator.
_MOST_CREATED = 1000


@dataclass(frozen=True)
class Change:
    """One column of the row, before and after a segment."""

    column: str
    before: Any
    after: Any
    #: Whether the column did not exist before; `before` is None then.
    is_new: bool


@dataclass(frozen=True)
class Event:
    """What one segment did to the row."""

    #: The stages that committed together.
    stages: tuple[str, ...]
    status: str
    #: The one of `stages` that dropped or failed the row.
    stage: str | None
    reason: str | None
    #: The stage of this segment that created the row; None: it existed before.
    created_by: str | None
    #: Compared with the row that came into the segment; with the parent, for a row created here.
    changes: list[Change]
    #: Whether the row's values before the segment are not stored; `changes` has all values then.
    from_source: bool
    #: Ids of the rows that the segment created from this one.
    created: list[str]
    answers: list[Answer]


@dataclass(frozen=True)
class Trace:
    """The history of a row."""

    row_id: str
    parent_id: str | None
    unit: Unit
    #: Position in its file, from 0, of the row itself or of the source row it descends from.
    position: int | None
    events: list[Event]
    #: The first segment in which the row's unit is not committed yet.
    waits_for: tuple[str, ...] | None = None


def trace(reader: RunReader, row_id: str) -> Trace:
    """Follow a row through the run.

    Args:
        reader: the run.
        row_id: its id, or a unique prefix of at least six digits.

    Raises:
        UserError: no row has this id, or several have this prefix.
    """
    row_id, unit = reader.find(row_id)
    events: list[Event] = []
    parents: dict[str, str | None] = {}
    before: pa.Table | None = None
    waits_for = None
    for segment in reader.segments:
        after = reader.part(segment, unit)
        if after is None:
            waits_for = segment.stages
            break
        ids, parent_ids = after["row_id"].to_pylist(), after["parent_id"].to_pylist()
        parents |= dict(zip(ids, parent_ids, strict=True))
        row = _row(after, row_id)
        if row is not None:
            events.append(_event(reader, segment, unit, row, before, after))
            if row["status"] != KEPT:
                break
        before = after
    position = _position(unit, _root(row_id, parents))
    return Trace(row_id, parents.get(row_id), unit, position, events, waits_for)


def _event(
    reader: RunReader,
    segment: SegmentFolder,
    unit: Unit,
    row: dict[str, Any],
    before: pa.Table | None,
    after: pa.Table,
) -> Event:
    row_id = row["row_id"]
    came_in = _row(before, row_id) if before is not None else None
    is_created = row["parent_id"] is not None and came_in is None
    if is_created:
        came_in = _row(before if before is not None else after, row["parent_id"])
    children = after.filter(pc.equal(after["parent_id"], row_id))["row_id"].to_pylist()
    known = set(before["row_id"].to_pylist()) if before is not None else set()
    return Event(
        stages=segment.stages,
        status=row["status"],
        stage=row["stage"],
        reason=row["reason"],
        created_by=_creator(row, segment.stages) if is_created else None,
        changes=changes(came_in, row),
        from_source=came_in is None,
        created=[child for child in children if child not in known],
        answers=[a for stage in segment.stages for a in reader.answers(stage, unit, row_id)],
    )


def changes(before: dict[str, Any] | None, after: dict[str, Any]) -> list[Change]:
    """The data columns that differ, in order; all of them where there is no `before`."""
    differing = []
    for name, value in after.items():
        if name in ENVELOPE_COLUMNS:
            continue
        is_new = before is None or name not in before
        old = None if before is None else before.get(name)
        if before is None or value != old:
            differing.append(Change(name, old, value, is_new))
    return differing


def _row(table: pa.Table, row_id: str) -> dict[str, Any] | None:
    rows: list[dict[str, Any]] = json_rows(table.filter(pc.equal(table["row_id"], row_id)))
    return rows[0] if rows else None


def _creator(row: dict[str, Any], stages: tuple[str, ...]) -> str:
    """The stage that created a row: its name is part of the hash that is the row's id."""
    names = [stage for stage in stages if stage != SOURCE]
    for number in range(_MOST_CREATED):
        for stage in names:
            if created_row_id(row["parent_id"], stage, number) == row["row_id"]:
                return stage
    return " or ".join(names)


def _root(row_id: str, parents: dict[str, str | None]) -> str:
    while (parent := parents.get(row_id)) is not None:
        row_id = parent
    return row_id


def _position(unit: Unit, row_id: str) -> int | None:
    """A source row's position in its file, found by recomputing the ids of its unit's rows."""
    for position in range(unit.first_row, unit.first_row + unit.rows):
        if source_row_id(unit.file_id, position) == row_id:
            return position
    return None
