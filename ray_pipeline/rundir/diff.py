"""What changed between two runs: configuration, stages, account, rows, cost, environment, metrics.

Only the two run directories are read. Rows are compared unit by unit where the runs share units;
the other rows are compared in ranges of their ids, which are hashes. So memory is bounded however
large the runs are.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.core.arrow_types import json_values
from ray_pipeline.core.columns import is_vector
from ray_pipeline.core.redaction import redacted_data
from ray_pipeline.core.rows import ENVELOPE_COLUMNS, KEPT, reason_code
from ray_pipeline.core.text import plain, shortened
from ray_pipeline.rundir.account import LlmUsage, StageAccount
from ray_pipeline.rundir.effects import Effect, Effects, flat
from ray_pipeline.rundir.reader import RunReader, SegmentFolder, text_columns
from ray_pipeline.rundir.units import Unit

#: A half-open range of row ids, as its first id and the first one after it; None: all ids.
_Ids = tuple[str, str] | None

#: Rows in memory at a time, where the runs have no units in common.
_ROWS_AT_A_TIME = 200_000
#: Example rows of each kind of difference, and characters of a text in them.
_EXAMPLES, _TEXT = 5, 400
_NUMBERS = ("rows_in", "created", "kept", "dropped", "failed")


@dataclass(frozen=True)
class Changed:
    """A key with its value in each run; None where the run does not have the key."""

    key: str
    a: Any
    b: Any
    #: For configuration keys: whether the change can affect rows (identity) or only how they are
    #: made (execution). None: not known.
    effect: Effect | None = None

    @property
    def delta(self) -> float | None:
        """B minus A where both values are numbers, else None."""
        both = (self.a, self.b)
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in both):
            return float(self.b - self.a)
        return None


@dataclass(frozen=True)
class StageDiff:
    """A stage that is in at least one of the runs."""

    name: str
    a: StageAccount | None
    b: StageAccount | None
    #: Whether the two results are interchangeable: the same stage on the same input.
    same_fingerprint: bool
    #: Whether it has processed all its rows in the run; True where the run lacks it.
    finished_a: bool = True
    finished_b: bool = True

    def reasons(self) -> list[Changed]:
        """The reasons whose row counts differ."""
        a, b = (account.reasons if account else {} for account in (self.a, self.b))
        codes = sorted({*a, *b})
        pairs = [Changed(code, a.get(code, 0), b.get(code, 0)) for code in codes]
        return [pair for pair in pairs if pair.a != pair.b]

    @property
    def is_changed(self) -> bool:
        """Whether any of its numbers differ, or one run lacks it."""
        if self.a is None or self.b is None:
            return True
        numbers = any(getattr(self.a, name) != getattr(self.b, name) for name in _NUMBERS)
        return numbers or bool(self.reasons())


@dataclass(frozen=True)
class RowExample:
    """A row that only one run kept, with what became of it in the other (`ended`)."""

    row_id: str
    texts: dict[str, str]
    ended: str


@dataclass(frozen=True)
class ChangedRow:
    """A row that both runs kept, with the two values of each column that differs."""

    row_id: str
    columns: dict[str, tuple[str, str]]


@dataclass
class RowsDiff:
    """How the rows that the last stage of each run kept differ."""

    both: int = 0
    only_a: int = 0
    only_b: int = 0
    #: Rows in both runs with a different value in a data column that both runs have.
    changed: int = 0
    #: What became in the other run of the rows that only one run kept, with the number of rows.
    why_only_a: dict[str, int] = field(default_factory=dict)
    why_only_b: dict[str, int] = field(default_factory=dict)
    examples_a: list[RowExample] = field(default_factory=list)
    examples_b: list[RowExample] = field(default_factory=list)
    examples_changed: list[ChangedRow] = field(default_factory=list)
    #: Data columns of the last stage that only one run has.
    columns_a: list[str] = field(default_factory=list)
    columns_b: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RunDiff:
    """The differences between two runs, A and B; `a` and `b` are their URIs."""

    a: str
    b: str
    status: tuple[str, str]
    config: list[Changed]
    stages: list[StageDiff]
    rows: RowsDiff
    effort: list[Changed]
    environment: list[Changed]
    metrics: list[Changed]


def diff(reader_a: RunReader, reader_b: RunReader) -> RunDiff:
    """Compare two runs, whether they are finished or not.

    Raises:
        RunError: a file of a run cannot be read.
    """
    effects = Effects(reader_a, reader_b)
    return RunDiff(
        a=reader_a.storage.uri(),
        b=reader_b.storage.uri(),
        status=(reader_a.ledger.status, reader_b.ledger.status),
        config=[
            replace(change, effect=effects.of(change.key))
            for change in _changed(reader_a.config, reader_b.config)
        ],
        stages=list(_stages(reader_a, reader_b)),
        rows=_Rows(reader_a, reader_b).compare(),
        effort=_effort(reader_a, reader_b),
        environment=_changed(reader_a.environment, reader_b.environment),
        metrics=_changed(reader_a.metrics, reader_b.metrics),
    )


def _changed(a: dict[str, Any], b: dict[str, Any]) -> list[Changed]:
    flat_a, flat_b = flat(a), flat(b)
    keys = sorted({*flat_a, *flat_b})
    pairs = [Changed(key, flat_a.get(key), flat_b.get(key)) for key in keys]
    changed = [pair for pair in pairs if pair.a != pair.b]
    return [
        replace(pair, a=_shown_of(pair.key, pair.a), b=_shown_of(pair.key, pair.b))
        for pair in changed
    ]


def _shown_of(key: str, value: Any) -> Any:
    """The value of a dotted key as it may be shown, without secrets."""
    for name in reversed(key.split(".")):
        value = {name: value}
    shown = redacted_data(value)
    for name in key.split("."):
        if not isinstance(shown, dict):
            break
        shown = shown[name]
    return shown


def _stages(reader_a: RunReader, reader_b: RunReader) -> Iterator[StageDiff]:
    """Stages in B's order; those that only A has are inserted at their position in A."""
    a, b = ({e.account.name: e for e in r.ledger.entries} for r in (reader_a, reader_b))
    waiting = list(a)
    order: list[str] = []
    for name in b:
        if name in waiting:
            place = waiting.index(name)
            order += [removed for removed in waiting[:place] if removed not in b]
            waiting = waiting[place + 1 :]
        order.append(name)
    order += [removed for removed in waiting if removed not in b]
    for name in order:
        entry_a, entry_b = a.get(name), b.get(name)
        yield StageDiff(
            name,
            entry_a.account if entry_a else None,
            entry_b.account if entry_b else None,
            bool(entry_a and entry_b and entry_a.fingerprint == entry_b.fingerprint),
            entry_a is None or entry_a.finished,
            entry_b is None or entry_b.finished,
        )


def _effort(reader_a: RunReader, reader_b: RunReader) -> list[Changed]:
    a, b = _totals(reader_a), _totals(reader_b)
    return [Changed(key, a[key], b[key]) for key in a]


def _totals(reader: RunReader) -> dict[str, float]:
    usage = LlmUsage()
    for entry in reader.ledger.entries:
        usage.add(entry.account.llm or LlmUsage())
    usage.add(reader.ledger.other or LlmUsage())
    return {
        "seconds": reader.ledger.seconds,
        "work_seconds": round(sum(e.account.seconds for e in reader.ledger.entries), 3),
        "requests": usage.requests,
        "reused": usage.reused,
        "unused": usage.unused,
        "unanswered": usage.unanswered,
        "retries": usage.retries,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cost_usd": usage.cost_usd,
        "lost_usd": usage.lost_usd,
    }


@dataclass(frozen=True)
class _Side:
    """The rows of one run's last stage."""

    reader: RunReader
    #: The segment of the last stage; None: none of its units is committed.
    last: SegmentFolder | None
    columns: dict[str, pa.DataType]

    @classmethod
    def of(cls, reader: RunReader) -> _Side:
        # A stage that has committed nothing yet has no rows to compare.
        entries = [e for e in reader.ledger.entries if e.finished or e.account.rows_in]
        last = reader.segment_of(entries[-1].account.name) if entries else None
        schema = reader.schema(last) if last is not None else pa.schema([])
        data = {f.name: f.type for f in schema if f.name not in ENVELOPE_COLUMNS}
        return cls(reader, last, data)

    def kept(
        self, units: Collection[Unit], columns: Collection[str], ids: _Ids
    ) -> Iterator[tuple[Unit, pa.Table]]:
        """The kept rows with ids in a range, one of the given units at a time."""
        for unit in units if self.last is not None else ():
            assert self.last is not None
            rows = self.reader.columns(self.last, unit, ["row_id", "status", *columns])
            if rows is not None:
                yield unit, rows.filter(_within(rows, ids, pc.equal(rows["status"], KEPT)))

    def ends(self, units: Collection[Unit], wanted: Collection[str]) -> dict[str, str]:
        """What became of each wanted row, by id; rows that the run never had are missing."""
        ids = pa.array(sorted(wanted), pa.string())
        ends: dict[str, str] = {}
        for segment in self.reader.segments:
            for unit in units:
                rows = self.reader.columns(segment, unit, ["row_id", "status", "stage", "reason"])
                if rows is None:
                    continue
                for row in rows.filter(pc.is_in(rows["row_id"], ids)).to_pylist():
                    ends[row["row_id"]] = _end(row, segment, segment == self.last)
        return ends


def _within(rows: pa.Table, ids: _Ids, mask: Any) -> Any:
    if ids is None:
        return mask
    least, below = ids
    mask = pc.and_(mask, pc.greater_equal(rows["row_id"], least))
    return pc.and_(mask, pc.less(rows["row_id"], below))


def _end(row: dict[str, Any], segment: SegmentFolder, is_last: bool) -> str:
    if row["status"] == KEPT:
        return "kept" if is_last else f"not through what follows {segment.stages[-1]}"
    return f"{row['status']} by {row['stage']}: {reason_code(row['reason'] or '?')}"


@dataclass(frozen=True)
class _Kept:
    """What is held in memory about a kept row while its unit is compared."""

    digest: bytes
    unit: Unit
    parent_id: str | None


class _Rows:
    """Compares the rows that came through the last stages of two runs."""

    def __init__(self, reader_a: RunReader, reader_b: RunReader) -> None:
        self.a, self.b = _Side.of(reader_a), _Side.of(reader_b)
        # Vectors are not compared: their last digits differ even where nothing else does.
        self.common = [n for n in self.a.columns if n in self.b.columns and self._is_compared(n)]
        self.found = RowsDiff(
            columns_a=[name for name in self.a.columns if name not in self.b.columns],
            columns_b=[name for name in self.b.columns if name not in self.a.columns],
        )
        self._why: dict[str, Counter[str]] = {"a": Counter(), "b": Counter()}
        self._examples: dict[str, list[tuple[str, Any]]] = {"a": [], "b": [], "changed": []}

    def _is_compared(self, name: str) -> bool:
        return not is_vector(self.a.columns[name]) and not is_vector(self.b.columns[name])

    def compare(self) -> RowsDiff:
        """Count the differences, and keep a few rows to show."""
        for units_a, units_b, ids in self._batches():
            if ids is not None or not self._are_identical(units_a[0], units_b[0]):
                self._compare(units_a, units_b, ids)
        self.found.why_only_a, self.found.why_only_b = (
            dict(self._why[which].most_common()) for which in ("a", "b")
        )
        self.found.examples_a = [example for _, example in sorted(self._examples["a"])]
        self.found.examples_b = [example for _, example in sorted(self._examples["b"])]
        self.found.examples_changed = [row for _, row in sorted(self._examples["changed"])]
        return self.found

    def _batches(self) -> Iterator[tuple[list[Unit], list[Unit], _Ids]]:
        """Units of both runs that can hold the same rows, with the range of ids to look at.

        A unit that both runs have holds the same source rows, and rows created from them. A row
        of any other unit may be in any of the other run's remaining units, so all of these are
        compared together, one range of ids at a time.
        """
        a, b = ({u.unit_id: u for u in side.reader.units} for side in (self.a, self.b))
        for unit_id in sorted(a.keys() & b.keys()):
            yield [a[unit_id]], [b[unit_id]], None
        rest_a = [unit for unit_id, unit in a.items() if unit_id not in b]
        rest_b = [unit for unit_id, unit in b.items() if unit_id not in a]
        rows = max(sum(unit.rows for unit in units) for units in (rest_a, rest_b))
        ranges = -(-rows // _ROWS_AT_A_TIME)
        # Ids are hexadecimal digits; "g" comes after all of them.
        bounds = [f"{16**6 * i // ranges:06x}" for i in range(ranges)] + ["g"]
        for ids in pairwise(bounds):
            yield rest_a, rest_b, ids

    def _are_identical(self, unit_a: Unit, unit_b: Unit) -> bool:
        """Whether the footers already say that the kept rows are the same."""
        if self.a.last is None or self.b.last is None:
            return False
        a = self.a.reader.part_info(self.a.last, unit_a)
        b = self.b.reader.part_info(self.b.last, unit_b)
        if a is None or b is None or a.digest != b.digest:
            return False
        self.found.both += a.accounts[-1].kept
        return True

    def _compare(self, units_a: list[Unit], units_b: list[Unit], ids: _Ids) -> None:
        a, b = self._digests(self.a, units_a, ids), self._digests(self.b, units_b, ids)
        only_a, only_b = a.keys() - b.keys(), b.keys() - a.keys()
        changed = {row_id for row_id in a.keys() & b.keys() if a[row_id].digest != b[row_id].digest}
        found = self.found
        found.both += len(a) - len(only_a)
        found.only_a += len(only_a)
        found.only_b += len(only_b)
        found.changed += len(changed)
        self._explain("a", self.a, {i: a[i] for i in only_a}, self.b, units_b)
        self._explain("b", self.b, {i: b[i] for i in only_b}, self.a, units_a)
        for row_id in heapq.nsmallest(_EXAMPLES, changed):
            units = a[row_id].unit, b[row_id].unit
            self._show("changed", row_id, partial(self._columns, row_id, *units))

    def _digests(self, side: _Side, units: list[Unit], ids: _Ids) -> dict[str, _Kept]:
        """Each kept row with a hash over the columns that both runs have, by its id."""
        found: dict[str, _Kept] = {}
        for unit, rows in side.kept(units, ["parent_id", *self.common], ids):
            columns = [json_values(rows[name], Counter()) for name in self.common]
            values = zip(*columns, strict=True) if columns else iter([()] * rows.num_rows)
            envelope = (rows["row_id"].to_pylist(), rows["parent_id"].to_pylist())
            for row_id, parent_id, row in zip(*envelope, values, strict=True):
                digest = hashlib.blake2b(orjson.dumps(row, str), digest_size=8).digest()
                found[row_id] = _Kept(digest, unit, parent_id)
        return found

    def _explain(
        self,
        which: Literal["a", "b"],
        side: _Side,
        only: dict[str, _Kept],
        other: _Side,
        other_units: list[Unit],
    ) -> None:
        """Count what became in the other run of rows that only one kept, and keep examples."""
        if not only:
            return
        parents = {row.parent_id for row in only.values() if row.parent_id is not None}
        ends = other.ends(other_units, {*only, *parents})
        where = {i: _ended(i, row.parent_id, ends) for i, row in only.items()}
        self._why[which].update(where.values())
        for row_id in heapq.nsmallest(_EXAMPLES, only):
            unit, end = only[row_id].unit, where[row_id]
            self._show(which, row_id, partial(_example, side, unit, row_id, end))

    def _columns(self, row_id: str, unit_a: Unit, unit_b: Unit) -> ChangedRow:
        before = _row(self.a, unit_a, row_id, self.common)
        after = _row(self.b, unit_b, row_id, self.common)
        return ChangedRow(
            row_id,
            {
                name: (_shown(before[name]), _shown(after[name]))
                for name in self.common
                if orjson.dumps(before[name], str) != orjson.dumps(after[name], str)
            },
        )

    def _show(self, which: str, row_id: str, make: Callable[[], Any]) -> None:
        """Keep the rows with the smallest ids: the same ones in whichever order units come."""
        shown = self._examples[which]
        if len(shown) < _EXAMPLES or row_id < shown[-1][0]:
            shown.append((row_id, make()))
            shown.sort(key=lambda pair: pair[0])
            del shown[_EXAMPLES:]


def _ended(row_id: str, parent_id: str | None, ends: dict[str, str]) -> str:
    if row_id in ends:
        return ends[row_id]
    if parent_id in ends:
        return f"never made; the row it was made of: {ends[parent_id]}"
    return "never there"


def _example(side: _Side, unit: Unit, row_id: str, end: str) -> RowExample:
    assert side.last is not None
    names = text_columns(side.reader, side.reader.schema(side.last))
    row = _row(side, unit, row_id, names)
    return RowExample(row_id, {name: _shown(row[name]) for name in names}, end)


def _row(side: _Side, unit: Unit, row_id: str, names: Collection[str]) -> dict[str, Any]:
    assert side.last is not None
    rows = side.reader.columns(side.last, unit, ["row_id", *names])
    assert rows is not None
    found: dict[str, Any] = rows.filter(pc.equal(rows["row_id"], row_id)).to_pylist()[0]
    return found


def _shown(value: Any) -> str:
    return shortened(plain(value), _TEXT)
