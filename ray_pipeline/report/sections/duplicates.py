"""Duplicates that were dropped, each group with the row that was kept."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow.compute as pc
from markupsafe import Markup

from ray_pipeline.core.rows import DROPPED, reason_code
from ray_pipeline.report.grouping import (
    LARGEST,
    MOST_ROWS,
    TEXT,
    Group,
    Member,
    Place,
    Tally,
    Texts,
    members,
    sizes_chart,
    texts_at,
)
from ray_pipeline.report.reading import ReportReader, segments_with, some_units, texts_of
from ray_pipeline.report.section import Section
from ray_pipeline.rundir.reader import SegmentFolder

#: Groups with the lowest similarities that are shown beside the largest ones.
_DOUBTFUL = 4


@dataclass(frozen=True)
class Duplicates:
    """The section."""

    #: Rows by reason, from the ledger.
    reasons: dict[str, int]
    groups: int
    sizes: Markup
    largest: list[Group]
    #: Near duplicates with the lowest similarities.
    doubtful: list[Group]
    #: Whether every duplicate of the run was looked at.
    is_whole: bool


def read(reader: ReportReader) -> Duplicates | None:
    """Read duplicates; None where no row says which row it is a duplicate of."""
    segments = segments_with(reader, "duplicate_of")
    if not segments:
        return None
    tallies: dict[str, Tally] = defaultdict(Tally)
    homes: dict[str, SegmentFolder] = {}
    seen = 0
    for segment in segments:
        for kept_id, place in _dropped(reader, segment):
            if seen >= MOST_ROWS:
                break
            seen += 1
            tallies[kept_id].add(place)
            homes.setdefault(kept_id, segment)
    ranked = sorted(tallies, key=lambda key: (-tallies[key].rows, key))
    largest = ranked[:LARGEST]
    near = [key for key in ranked[LARGEST:] if tallies[key].lowest_similarity < 1.0]
    doubtful = sorted(near, key=lambda key: (tallies[key].lowest_similarity, key))[:_DOUBTFUL]
    groups = _groups(reader, {key: tallies[key] for key in [*largest, *doubtful]}, homes)
    reasons = _reasons(reader)
    return Duplicates(
        reasons=reasons,
        groups=len(tallies),
        sizes=sizes_chart(tally.rows + 1 for tally in tallies.values()),
        largest=[groups[key] for key in largest],
        doubtful=[groups[key] for key in doubtful],
        is_whole=seen >= sum(reasons.values()),
    )


def _reasons(reader: ReportReader) -> dict[str, int]:
    reasons: Counter[str] = Counter()
    for entry in reader.ledger.entries:
        for code, rows in entry.account.reasons.items():
            if code.startswith("duplicate:"):
                reasons[code] += rows
    return dict(sorted(reasons.items()))


def _dropped(reader: ReportReader, segment: SegmentFolder) -> Iterator[tuple[str, Place]]:
    """The duplicates that a segment dropped, each with the id of the row that was kept."""
    names = ["row_id", "status", "reason", "duplicate_of", "duplicate_similarity"]
    for unit, rows in reader.each_unit(segment, names, some_units(reader)):
        duplicates = rows.filter(
            pc.and_(pc.equal(rows["status"], DROPPED), pc.is_valid(rows["duplicate_of"]))
        )
        for row in duplicates.to_pylist():
            reason = reason_code(row["reason"] or "?")
            place = Place(row["row_id"], segment, unit, reason, row["duplicate_similarity"])
            yield row["duplicate_of"], place


def _groups(
    reader: ReportReader, tallies: dict[str, Tally], homes: dict[str, SegmentFolder]
) -> dict[str, Group]:
    """The groups with their texts, by the id of the row that was kept."""
    texts = texts_at(reader, tallies.values())
    kept: dict[str, Texts] = {}
    for segment in dict.fromkeys(homes[key] for key in tallies):
        kept |= _find(reader, segment, {key for key in tallies if homes[key] == segment})
    return {
        key: Group(
            tally.rows + 1,
            members(tally, texts),
            Member(key, kept[key]) if key in kept else None,
        )
        for key, tally in tallies.items()
    }


def _find(reader: ReportReader, segment: SegmentFolder, row_ids: set[str]) -> dict[str, Texts]:
    """Texts of rows that may be in any unit."""
    texts: dict[str, Texts] = {}
    for unit, rows in reader.each_unit(segment, ["row_id"], some_units(reader)):
        if len(texts) == len(row_ids):
            break
        here = row_ids.intersection(rows["row_id"].to_pylist())
        if here:
            texts |= texts_of(reader, segment, unit, here, TEXT)
    return texts


SECTION = Section("duplicates", "Duplicates", "duplicates.html.j2", read)
