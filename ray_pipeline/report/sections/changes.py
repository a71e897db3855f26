"""Rows before and after each stage that changed them, with what changed marked word by word.

Few parts are opened, however large the run is. Which rows are shown depends on nothing but their
ids, which are hashes: a report that is written again shows the same ones, and they are as good as
drawn at random.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

import pyarrow as pa

from ray_pipeline.core.rows import KEPT
from ray_pipeline.core.text import plain, shortened
from ray_pipeline.report.reading import ReportReader, some_units, without_vectors
from ray_pipeline.report.section import Section
from ray_pipeline.rundir.reader import SegmentFolder
from ray_pipeline.rundir.trace import Change, changes

#: Rows that are shown of a segment, and parts that are opened for them.
_ROWS, _PARTS = 3, 6
#: Characters of a value that was added.
_VALUE = 240
_WORD = re.compile(r"\w+|\s+|[^\w\s]")
#: Longer texts are cut around their first difference: comparing costs the square of their words.
LONGEST = 700
#: How much of the common beginning stands before the first difference of a text that is cut.
_LEAD = 120


@dataclass(frozen=True)
class Piece:
    """Words that both texts have, or only the one that the piece belongs to."""

    kind: Literal["same", "changed"]
    text: str


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
class SegmentChanges:
    """What the stages of one segment, which committed together, did to rows."""

    stages: tuple[str, ...]
    reads_source: bool
    rows: list[ChangedRow]


def read(reader: ReportReader) -> list[SegmentChanges]:
    """Rows before and after each segment that changed them; none of the one that read them."""
    shown = []
    for segment in reader.segments:
        upstream = reader.upstream_of(segment)
        rows = [] if upstream is None else _changed_by(reader, upstream, segment)
        if rows or upstream is None:
            shown.append(SegmentChanges(segment.stages, upstream is None, rows))
    return shown


def _changed_by(
    reader: ReportReader, upstream: SegmentFolder, segment: SegmentFolder
) -> list[ChangedRow]:
    candidates: list[_Candidate] = []
    for unit in some_units(reader, _PARTS):
        before, after = reader.part(upstream, unit), reader.part(segment, unit)
        if before is None or after is None:
            continue
        candidates += _candidates(before, after)
        if sum(candidate.shows_a_text for candidate in candidates) >= _ROWS:
            break
    # Sorting is stable: rows that only have a new column come last.
    candidates.sort(key=lambda candidate: not candidate.shows_a_text)
    return [_changed_row(candidate) for candidate in candidates[:_ROWS]]


@dataclass(frozen=True)
class _Candidate:
    """A row that could be shown; only texts of the chosen ones are compared word by word."""

    row_id: str
    made_from: str | None
    texts: list[Change]
    added: list[Change]

    @property
    def shows_a_text(self) -> bool:
        return bool(self.texts) or self.made_from is not None


def _candidates(before: pa.Table, after: pa.Table) -> Iterator[_Candidate]:
    rows_before = {row["row_id"]: row for row in without_vectors(before).to_pylist()}
    for row in sorted(without_vectors(after).to_pylist(), key=lambda row: row["row_id"]):
        made_from = None if row["row_id"] in rows_before else row["parent_id"]
        old = rows_before.get(made_from or row["row_id"])
        if row["status"] != KEPT or old is None:
            continue
        changed = [change for change in changes(old, row) if change.after is not None]
        texts = [c for c in changed if isinstance(c.before, str) and isinstance(c.after, str)]
        added = [c for c in changed if c.before is None]
        if texts or made_from or added:
            yield _Candidate(row["row_id"], made_from, texts, added)


def _changed_row(candidate: _Candidate) -> ChangedRow:
    texts = [
        ChangedText(change.column, *differences(plain(change.before), plain(change.after)))
        for change in candidate.texts
    ]
    # A column such as `original_question` would repeat the text before the change.
    shown = [change.before for change in candidate.texts]
    added = [
        (change.column, shortened(plain(change.after), _VALUE))
        for change in candidate.added
        if change.after not in shown
    ]
    return ChangedRow(candidate.row_id, candidate.made_from, texts, added)


def differences(before: str, after: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts as pieces; those that the other text does not have are marked as changed."""
    before, after = _around_first_difference(before, after)
    old, new = _WORD.findall(before), _WORD.findall(after)
    left: list[Piece] = []
    right: list[Piece] = []
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    for tag, i, j, k, m in matcher.get_opcodes():
        kind: Literal["same", "changed"] = "same" if tag == "equal" else "changed"
        if i < j:
            left.append(Piece(kind, "".join(old[i:j])))
        if k < m:
            right.append(Piece(kind, "".join(new[k:m])))
    return _joined(left), _joined(right)


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Join changes with nothing but white space between them: one mark reads better than two."""
    joined: list[Piece] = []
    for position, piece in enumerate(pieces):
        is_space = piece.kind == "same" and not piece.text.strip()
        inside = 0 < position < len(pieces) - 1
        if is_space and inside:
            piece = Piece("changed", piece.text)
        if joined and joined[-1].kind == piece.kind:
            piece = Piece(piece.kind, joined.pop().text + piece.text)
        joined.append(piece)
    return joined


def _around_first_difference(before: str, after: str) -> tuple[str, str]:
    if max(len(before), len(after)) <= LONGEST:
        return before, after
    same = 0
    for old, new in zip(before, after, strict=False):
        if old != new:
            break
        same += 1
    start = max(0, same - _LEAD)
    return _window(before, start), _window(after, start)


def _window(text: str, start: int) -> str:
    end = start + LONGEST
    return "…" * (start > 0) + text[start:end] + "…" * (end < len(text))


SECTION = Section("changes", "Rows before and after each stage", "changes.html.j2", read)
