"""Rows that show what the stages did. Few parts are opened, however large the run is.

Which rows are shown depends on nothing but their ids, which are hashes: a report that is written
again shows the same ones, and they are as good as drawn at random.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ray_pipeline.report.differences import Piece, differences
from ray_pipeline.report.formats import plain, shortened
from ray_pipeline.rows import ENVELOPE_COLUMNS, FAILED, KEPT, reason_code
from ray_pipeline.run_reader import Answer, RunReader, SegmentFolder
from ray_pipeline.run_trace import Change, changes
from ray_pipeline.sources.unit import Unit

#: Examples of a change, and of a reason.
_ROWS = 3
#: Parts that are opened for the examples of one segment, and footers that are looked through.
_PARTS = 6
_FOOTERS = 512
#: Columns and characters of a row that is shown whole, and characters of a raw answer.
_COLUMNS = 10
_VALUE = 240
_RAW = 2_000


@dataclass(frozen=True)
class ChangedText:
    """A text column before and after."""

    column: str
    before: list[Piece]
    after: list[Piece]


@dataclass(frozen=True)
class ChangedRow:
    """A row that a segment changed, or made from another."""

    row_id: str
    #: Id of the row it was made from by this segment.
    made_from: str | None
    texts: list[ChangedText]
    #: Columns that were not there before, with their values.
    added: list[tuple[str, str]]


@dataclass(frozen=True)
class SegmentExamples:
    """What one segment did to texts."""

    stages: tuple[str, ...]
    reads_source: bool
    rows: list[ChangedRow]


@dataclass(frozen=True)
class RestingRow:
    """A row that was dropped or failed, with its data."""

    row_id: str
    status: str
    reason: str
    values: list[tuple[str, str]]
    #: What a language model had answered about it (failed rows only).
    answers: list[Answer] = field(default_factory=list)


def changed_rows(reader: RunReader) -> list[SegmentExamples]:
    """Rows before and after each segment that changed texts, and after the one that read them."""
    found = []
    for segment in reader.segments:
        upstream = reader.upstream_of(segment)
        rows = [] if upstream is None else _changed_by(reader, upstream, segment)
        if rows or upstream is None:
            found.append(SegmentExamples(segment.stages, upstream is None, rows))
    return found


def _changed_by(
    reader: RunReader, upstream: SegmentFolder, segment: SegmentFolder
) -> list[ChangedRow]:
    rows: list[ChangedRow] = []
    for unit in sorted(reader.units, key=lambda unit: unit.unit_id)[:_PARTS]:
        before, after = reader.part(upstream, unit), reader.part(segment, unit)
        if before is None or after is None:
            continue
        rows += _changed_in(before, after)
        if len(rows) >= _ROWS:
            break
    return rows[:_ROWS]


def _changed_in(before: pa.Table, after: pa.Table) -> Iterator[ChangedRow]:
    came_in = {row["row_id"]: row for row in before.to_pylist()}
    for row in sorted(after.to_pylist(), key=lambda row: row["row_id"]):
        made_from = None if row["row_id"] in came_in else row["parent_id"]
        old = came_in.get(made_from or row["row_id"])
        if row["status"] != KEPT or old is None:
            continue
        made = _changed_row(row["row_id"], made_from, changes(old, row))
        if made.texts or made_from:
            yield made


def _changed_row(row_id: str, made_from: str | None, found: list[Change]) -> ChangedRow:
    texts = []
    originals = []
    for change in found:
        if not change.is_new and isinstance(change.before, str) and isinstance(change.after, str):
            originals.append(change.before)
            pieces = differences(plain(change.before), plain(change.after))
            texts.append(ChangedText(change.column, *pieces))
    added = [
        (change.column, shortened(plain(change.after), _VALUE))
        for change in found
        # `original_question` says again what stands before the change.
        if change.is_new and change.after is not None and change.after not in originals
    ]
    return ChangedRow(row_id, made_from, texts, added)


def resting_rows(reader: RunReader) -> dict[tuple[str, str], list[RestingRow]]:
    """Up to three rows for each stage and reason that some stage dropped or failed rows for.

    A reason whose rows all lie in units that were not looked at has none.
    """
    found: dict[tuple[str, str], list[RestingRow]] = defaultdict(list)
    for segment in reader.segments:
        wanted = {
            (stage, code) for stage in segment.stages for code in reader.entry(stage).account.reasons
        }
        for unit in _units_with(reader, segment, wanted, found):
            rows = reader.part(segment, unit)
            if rows is not None:
                _collect(reader, unit, rows, found)
    return found


def _units_with(
    reader: RunReader,
    segment: SegmentFolder,
    wanted: set[tuple[str, str]],
    found: dict[tuple[str, str], list[RestingRow]],
) -> Iterator[Unit]:
    """Units whose accounts promise examples that are still missing; a few at most."""
    opened = 0
    units = sorted(reader.units, key=lambda unit: unit.unit_id)[:_FOOTERS]
    for unit, info in reader.part_infos(segment, units):
        missing = {reason for reason in wanted if len(found[reason]) < _ROWS}
        if not missing or opened == _PARTS + len(wanted):
            return
        here = {(account.name, code) for account in info.accounts for code in account.reasons}
        if missing & here:
            opened += 1
            yield unit


def _collect(
    reader: RunReader,
    unit: Unit,
    rows: pa.Table,
    found: dict[tuple[str, str], list[RestingRow]],
) -> None:
    for row in sorted(rows.to_pylist(), key=lambda row: row["row_id"]):
        if row["status"] == KEPT:
            continue
        stage, reason = str(row["stage"]), str(row["reason"] or "?")
        examples = found[stage, reason_code(reason)]
        if len(examples) < _ROWS:
            row_id, status = row["row_id"], row["status"]
            answers = reader.answers(stage, unit, row_id) if status == FAILED else []
            examples.append(RestingRow(row_id, status, plain(reason), _values(row), answers))


def _values(row: dict[str, Any]) -> list[tuple[str, str]]:
    values = [
        (name, shortened(plain(value), _VALUE))
        for name, value in row.items()
        if name not in ENVELOPE_COLUMNS and value not in (None, "")
    ]
    # The first columns are the data, the last ones the evidence.
    half = _COLUMNS // 2
    return values if len(values) <= _COLUMNS else values[:half] + values[-half:]


def raw(answer: Answer) -> str:
    """An answer's text as it came, shortened."""
    return shortened(plain(answer.text), _RAW)
