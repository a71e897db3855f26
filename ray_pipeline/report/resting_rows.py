"""Rows that left a run, by stage and reason, with a few examples of each.

Few parts are opened, however large the run is. Which rows are shown depends on nothing but their
ids, which are hashes: a report that is written again shows the same ones, and they are as good as
drawn at random.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.core.rows import DROPPED, ENVELOPE_COLUMNS, FAILED, KEPT, reason_code
from ray_pipeline.core.text import plain, shortened
from ray_pipeline.report.reading import ReportReader, some_units, without_vectors
from ray_pipeline.rundir.account import StageAccount
from ray_pipeline.rundir.reader import Answer, SegmentFolder
from ray_pipeline.rundir.rows import Rows
from ray_pipeline.rundir.units import Unit

#: Examples of a reason.
_ROWS = 3
#: Parts that are opened for the examples of one segment, and footers that are looked through.
_PARTS, _FOOTERS = 6, 512
#: Columns of a row that are shown, and characters of a value.
_COLUMNS, _VALUE = 10, 240


@dataclass(frozen=True)
class RestingRow:
    """A row that was dropped or failed, with its data."""

    row_id: str
    status: str
    reason: str
    values: list[tuple[str, str]]
    #: What a language model had answered about it (failed rows only).
    answers: list[Answer] = field(default_factory=list)


@dataclass(frozen=True)
class ReasonLine:
    """How many rows left a stage for one reason, and some of them."""

    stage: str
    #: ``dropped`` or ``failed``.
    status: str
    code: str
    rows: int
    rows_in: int
    examples: list[RestingRow]


#: Examples by stage and code of the reason.
Examples = dict[tuple[str, str], list[RestingRow]]


def reason_lines(reader: ReportReader) -> list[ReasonLine]:
    """Why rows left, in the order of the stages, the most frequent reason of each first."""
    examples = resting_rows(reader)
    lines = []
    for entry in reader.ledger.entries:
        account = entry.account
        for code, rows in sorted(account.reasons.items(), key=lambda pair: (-pair[1], pair[0])):
            shown = examples.get((account.name, code), [])
            status = shown[0].status if shown else _status(reader, account, code)
            lines.append(ReasonLine(account.name, status, code, rows, account.rows_in, shown))
    return lines


def _status(reader: ReportReader, account: StageAccount, code: str) -> str:
    """What became of the rows that left a stage for a reason: the rows themselves say it."""
    if not account.failed or not account.dropped:
        return FAILED if account.failed else DROPPED
    for batch in Rows(reader, account.name, reason=code, columns=["status", "reason"]):
        for status, reason in zip(
            batch["status"].to_pylist(), batch["reason"].to_pylist(), strict=True
        ):
            if reason_code(reason) == code:
                return str(status)
    return DROPPED  # the parts that held them are gone


def resting_rows(reader: ReportReader) -> Examples:
    """Up to three rows for each stage and reason.

    A reason whose rows all lie in units that were not looked at has none.
    """
    examples: Examples = defaultdict(list)
    for segment in reader.segments:
        wanted = {
            (stage, code)
            for stage in segment.stages
            for code in reader.entry(stage).account.reasons
        }
        for unit in _units_with(reader, segment, wanted, examples):
            rows = reader.part(segment, unit)
            if rows is not None:
                _collect(reader, unit, rows, examples)
    return examples


def _units_with(
    reader: ReportReader,
    segment: SegmentFolder,
    wanted: set[tuple[str, str]],
    examples: Examples,
) -> Iterator[Unit]:
    """Units whose accounts promise examples that are still missing; a few at most."""
    opened = 0
    for unit, info in reader.part_infos(segment, some_units(reader, _FOOTERS)) if wanted else ():
        missing = {reason for reason in wanted if len(examples[reason]) < _ROWS}
        if not missing or opened == _PARTS + len(wanted):
            return
        here = {(account.name, code) for account in info.accounts for code in account.reasons}
        if missing & here:
            opened += 1
            yield unit


def _collect(reader: ReportReader, unit: Unit, rows: pa.Table, examples: Examples) -> None:
    left = without_vectors(rows.filter(pc.not_equal(rows["status"], KEPT)))
    for row in sorted(left.to_pylist(), key=lambda row: row["row_id"]):
        stage, reason = str(row["stage"]), str(row["reason"] or "?")
        same_reason = examples[stage, reason_code(reason)]
        if len(same_reason) < _ROWS:
            row_id, status = row["row_id"], row["status"]
            answers = reader.answers(stage, unit, row_id) if status == FAILED else []
            same_reason.append(RestingRow(row_id, status, plain(reason), _values(row), answers))


def _values(row: dict[str, Any]) -> list[tuple[str, str]]:
    values = [
        (name, shortened(plain(value), _VALUE) if str(value).strip() else "(only white space)")
        for name, value in row.items()
        if name not in ENVELOPE_COLUMNS and value not in (None, "")
    ]
    # The first columns are the data, the last ones the evidence.
    half = _COLUMNS // 2
    return values if len(values) <= _COLUMNS else values[:half] + values[-half:]
