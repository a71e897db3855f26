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
import pyarrow.compute as pc

from ray_pipeline.core.rows import ENVELOPE_COLUMNS, FAILED, KEPT, reason_code
from ray_pipeline.core.text import plain, shortened
from ray_pipeline.report.reading import without_vectors
from ray_pipeline.report.sections.differences import Piece, differences
from ray_pipeline.rundir.reader import Answer, RunReader, SegmentFolder
from ray_pipeline.rundir.trace import Change, changes
from ray_pipeline.rundir.units import Unit

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
    """Rows before and after each segment that changed them; none of the one that read them."""
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
    found: list[_Candidate] = []
    for unit in sorted(reader.units, key=lambda unit: unit.unit_id)[:_PARTS]:
        before, after = reader.part(upstream, unit), reader.part(segment, unit)
        if before is None or after is None:
            continue
        found += _candidates(before, after)
        if sum(candidate.shows_a_text for candidate in found) >= _ROWS:
            break
    # Sorting is stable: rows that only have a new column come last, where texts are too few.
    found.sort(key=lambda candidate: not candidate.shows_a_text)
    return [_changed_row(candidate) for candidate in found[:_ROWS]]


@dataclass(frozen=True)
class _Candidate:
    """A row that could be shown; comparing its texts word by word is left for the chosen ones."""

    row_id: str
    made_from: str | None
    texts: list[Change]
    added: list[Change]

    @property
    def shows_a_text(self) -> bool:
        return bool(self.texts) or self.made_from is not None


def _candidates(before: pa.Table, after: pa.Table) -> Iterator[_Candidate]:
    came_in = {row["row_id"]: row for row in without_vectors(before).to_pylist()}
    for row in sorted(without_vectors(after).to_pylist(), key=lambda row: row["row_id"]):
        made_from = None if row["row_id"] in came_in else row["parent_id"]
        old = came_in.get(made_from or row["row_id"])
        if row["status"] != KEPT or old is None:
            continue
        found = [change for change in changes(old, row) if change.after is not None]
        texts = [c for c in found if isinstance(c.before, str) and isinstance(c.after, str)]
        added = [c for c in found if c.before is None]
        if texts or made_from or added:
            yield _Candidate(row["row_id"], made_from, texts, added)


def _changed_row(candidate: _Candidate) -> ChangedRow:
    texts = [
        ChangedText(change.column, *differences(plain(change.before), plain(change.after)))
        for change in candidate.texts
    ]
    # `original_question` would say again what stands before the change.
    said = [change.before for change in candidate.texts]
    added = [
        (change.column, shortened(plain(change.after), _VALUE))
        for change in candidate.added
        if change.after not in said
    ]
    return ChangedRow(candidate.row_id, candidate.made_from, texts, added)


def resting_rows(reader: RunReader) -> dict[tuple[str, str], list[RestingRow]]:
    """Up to three rows for each stage and reason that some stage dropped or failed rows for.

    A reason whose rows all lie in units that were not looked at has none.
    """
    found: dict[tuple[str, str], list[RestingRow]] = defaultdict(list)
    for segment in reader.segments:
        wanted = {
            (stage, code)
            for stage in segment.stages
            for code in reader.entry(stage).account.reasons
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
    left = without_vectors(rows.filter(pc.not_equal(rows["status"], KEPT)))
    for row in sorted(left.to_pylist(), key=lambda row: row["row_id"]):
        stage, reason = str(row["stage"]), str(row["reason"] or "?")
        examples = found[stage, reason_code(reason)]
        if len(examples) < _ROWS:
            row_id, status = row["row_id"], row["status"]
            answers = reader.answers(stage, unit, row_id) if status == FAILED else []
            examples.append(RestingRow(row_id, status, plain(reason), _values(row), answers))


def _values(row: dict[str, Any]) -> list[tuple[str, str]]:
    values = [
        (name, shortened(plain(value), _VALUE) if str(value).strip() else "(only white space)")
        for name, value in row.items()
        if name not in ENVELOPE_COLUMNS and value not in (None, "")
    ]
    # The first columns are the data, the last ones the evidence.
    half = _COLUMNS // 2
    return values if len(values) <= _COLUMNS else values[:half] + values[-half:]


def raw(answer: Answer) -> str:
    """An answer's text as it came, shortened."""
    return shortened(plain(answer.text), _RAW)
