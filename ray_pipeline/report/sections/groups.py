"""Rows that belong together: duplicates with the row that won, and rows that share a text."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from ray_pipeline.core.rows import DROPPED, KEPT, reason_code
from ray_pipeline.core.text import count, plain, shortened
from ray_pipeline.report.drawing.charts import columns
from ray_pipeline.report.reading import MOST_UNITS, as_told, segments_with, some_units
from ray_pipeline.rundir.reader import RunReader, SegmentFolder, text_columns
from ray_pipeline.rundir.units import Unit

#: Rows that are put into groups at most: they are what takes memory.
_ROWS = 200_000
#: Groups that are shown: the largest ones, and the pairs that are least alike.
_LARGEST, _DOUBTFUL = 6, 4
#: Rows of a group that are shown beside its winner, and characters of a text.
_MEMBERS, _TEXT = 4, 280
_SIZES = ((2, 2), (3, 3), (4, 4), (5, 9), (10, 99), (100, None))


@dataclass(frozen=True)
class Member:
    """A row of a group."""

    row_id: str
    texts: list[tuple[str, str]]
    reason: str | None = None
    similarity: float | None = None


@dataclass(frozen=True)
class Group:
    """Rows that belong together."""

    rows: int
    members: list[Member]
    #: The row that was kept instead of `members`; None in groups without one, or not found.
    winner: Member | None = None


@dataclass(frozen=True)
class Duplicates:
    """The section on duplicates."""

    #: Rows by reason, from the ledger.
    reasons: dict[str, int]
    groups: int
    sizes: Markup
    largest: list[Group]
    doubtful: list[Group]
    #: Whether every duplicate of the run was looked at.
    is_whole: bool


@dataclass(frozen=True)
class Shared:
    """Rows that have one text in common and differ in another."""

    column: str
    rows: int
    groups: int
    sizes: Markup
    largest: list[Group]
    is_whole: bool


@dataclass(frozen=True)
class _Place:
    """Where a row lies, so that its text can be read once it is known to be shown."""

    row_id: str
    segment: SegmentFolder
    unit: Unit
    reason: str | None = None
    similarity: float | None = None


@dataclass
class _Pile:
    """A group while it is counted."""

    rows: int = 0
    places: list[_Place] = field(default_factory=list)

    def add(self, place: _Place) -> None:
        self.rows += 1
        self.places.append(place)
        # The least alike first: a group is as good as its worst pair.
        self.places.sort(key=lambda p: (p.similarity if p.similarity is not None else 2, p.row_id))
        del self.places[_MEMBERS:]

    @property
    def worst(self) -> float:
        return self.places[0].similarity if self.places[0].similarity is not None else 2.0


def duplicates(reader: RunReader) -> Duplicates | None:
    """Duplicates that were dropped; None where no row says which row it is a duplicate of."""
    segments = segments_with(reader, "duplicate_of")
    if not segments:
        return None
    piles: dict[str, _Pile] = defaultdict(_Pile)
    homes: dict[str, SegmentFolder] = {}
    seen = 0
    for segment in segments:
        for winner, place in _losers(reader, segment):
            if seen >= _ROWS:
                break
            seen += 1
            piles[winner].add(place)
            homes.setdefault(winner, segment)
    ranked = sorted(piles, key=lambda key: (-piles[key].rows, key))
    largest = ranked[:_LARGEST]
    near = [key for key in ranked[_LARGEST:] if piles[key].worst < 1.0]
    doubtful = sorted(near, key=lambda key: (piles[key].worst, key))[:_DOUBTFUL]
    groups = _read(reader, {key: piles[key] for key in [*largest, *doubtful]}, homes)
    reasons = _reasons(reader)
    return Duplicates(
        reasons=reasons,
        groups=len(piles),
        sizes=_sizes(pile.rows + 1 for pile in piles.values()),
        largest=[groups[key] for key in largest],
        doubtful=[groups[key] for key in doubtful],
        is_whole=seen >= sum(reasons.values()),
    )


def _reasons(reader: RunReader) -> dict[str, int]:
    found: Counter[str] = Counter()
    for entry in reader.ledger.entries:
        for code, rows in entry.account.reasons.items():
            if code.startswith("duplicate:"):
                found[code] += rows
    return dict(sorted(found.items()))


def _losers(reader: RunReader, segment: SegmentFolder) -> Iterator[tuple[str, _Place]]:
    names = ["row_id", "status", "reason", "duplicate_of", "duplicate_similarity"]
    for unit, rows in reader.each_unit(segment, names, some_units(reader)):
        rows = as_told(rows)
        lost = rows.filter(
            pc.and_(pc.equal(rows["status"], DROPPED), pc.is_valid(rows["duplicate_of"]))
        )
        for row in lost.to_pylist():
            reason = reason_code(row["reason"] or "?")
            place = _Place(row["row_id"], segment, unit, reason, row["duplicate_similarity"])
            yield row["duplicate_of"], place


def _read(
    reader: RunReader, piles: dict[str, _Pile], homes: dict[str, SegmentFolder]
) -> dict[str, Group]:
    """The groups with their texts: few parts are opened for the losers, winners are looked for."""
    texts = _texts_of(reader, (place for pile in piles.values() for place in pile.places))
    winners: dict[str, list[tuple[str, str]]] = {}
    for segment in dict.fromkeys(homes[key] for key in piles):
        winners |= _find(reader, segment, {key for key in piles if homes[key] == segment})
    return {
        key: Group(
            pile.rows + 1,
            _members(pile, texts),
            Member(key, winners[key]) if key in winners else None,
        )
        for key, pile in piles.items()
    }


def _members(pile: _Pile, texts: dict[str, list[tuple[str, str]]]) -> list[Member]:
    return [Member(p.row_id, texts.get(p.row_id, []), p.reason, p.similarity) for p in pile.places]


def _texts_of(reader: RunReader, places: Iterable[_Place]) -> dict[str, list[tuple[str, str]]]:
    by_part: dict[tuple[SegmentFolder, Unit], set[str]] = defaultdict(set)
    for place in places:
        by_part[place.segment, place.unit].add(place.row_id)
    found: dict[str, list[tuple[str, str]]] = {}
    for (segment, unit), wanted in by_part.items():
        found |= _texts(reader, segment, unit, wanted)
    return found


def _find(
    reader: RunReader, segment: SegmentFolder, wanted: set[str]
) -> dict[str, list[tuple[str, str]]]:
    """Texts of rows that may be in any unit."""
    found: dict[str, list[tuple[str, str]]] = {}
    for unit, rows in reader.each_unit(segment, ["row_id"], some_units(reader)):
        if len(found) == len(wanted):
            break
        here = wanted.intersection(rows["row_id"].to_pylist())
        if here:
            found |= _texts(reader, segment, unit, here)
    return found


def _texts(
    reader: RunReader, segment: SegmentFolder, unit: Unit, wanted: set[str]
) -> dict[str, list[tuple[str, str]]]:
    names = text_columns(reader, reader.schema(segment))
    rows = reader.columns(segment, unit, ["row_id", *names])
    if rows is None:
        return {}
    chosen = rows.filter(pc.is_in(rows["row_id"], pa.array(sorted(wanted), pa.string())))
    return {row["row_id"]: _shown(row, names) for row in chosen.to_pylist()}


def _shown(row: dict[str, Any], names: list[str]) -> list[tuple[str, str]]:
    return [(name, shortened(plain(row[name]), _TEXT)) for name in names]


def _sizes(sizes: Iterable[int]) -> Markup:
    """The figure of how many groups have how many rows."""
    counted: Counter[int] = Counter()
    for size in sizes:
        place = next(i for i, (_, most) in enumerate(_SIZES) if most is None or size <= most)
        counted[place] += 1
    last = max(counted, default=0)
    labels = [_label(*_SIZES[place]) for place in range(last + 1)]
    return columns(labels, [counted[place] for place in range(last + 1)])


def _label(least: int, most: int | None) -> str:
    if most is None:
        return f"≥ {count(least)}"
    return f"{least}" if least == most else f"{least}–{most}"


def shared(reader: RunReader, column: str) -> Shared | None:
    """Kept rows grouped by a column of keys, such as ``same_question_group``."""
    segments = segments_with(reader, column)
    if not segments:
        return None
    piles: dict[str, _Pile] = defaultdict(_Pile)
    seen = 0
    units = some_units(reader)
    for unit, rows in reader.each_unit(segments[0], ["row_id", "status", column], units):
        if seen >= _ROWS:
            break
        grouped = rows.filter(pc.and_(pc.equal(rows["status"], KEPT), pc.is_valid(rows[column])))
        seen += grouped.num_rows
        for row_id, key in zip(*(grouped[n].to_pylist() for n in ("row_id", column)), strict=True):
            piles[key].add(_Place(row_id, segments[0], unit))
    largest = sorted(piles.values(), key=lambda pile: (-pile.rows, pile.places[0].row_id))
    largest = largest[:_LARGEST]
    texts = _texts_of(reader, (p for pile in largest for p in pile.places))
    return Shared(
        column=column,
        rows=seen,
        groups=len(piles),
        sizes=_sizes(pile.rows for pile in piles.values()),
        largest=[Group(pile.rows, _members(pile, texts)) for pile in largest],
        is_whole=seen < _ROWS and len(reader.units) <= MOST_UNITS,
    )
