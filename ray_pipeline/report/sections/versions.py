"""Augmentation: rows beside the versions made from them, and how many versions were accepted."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ray_pipeline.core.rows import KEPT, reason_code
from ray_pipeline.core.text import plain, shortened
from ray_pipeline.report.drawing import Axis, binned, histogram, meter
from ray_pipeline.report.reading import ReportReader, segments_with, some_units
from ray_pipeline.report.section import Section
from ray_pipeline.rundir.reader import SegmentFolder, text_columns
from ray_pipeline.rundir.units import Unit

ORIGINAL = "original"
#: Originals that are shown with their versions, and units that are opened for them.
_PARENTS, _PARTS = 12, 24
#: Stop counting after this many rows.
_ROWS = 200_000
#: Characters of a text.
_TEXT = 360
#: A column `version` with more values than this is something else.
_MOST = 12
#: Of the histograms of similarities.
_SIMILARITY, _BINS = Axis(0.0, 1.0), 25
_TICKS = [(0.0, "0"), (0.5, "0.5"), (1.0, "1")]


@dataclass(frozen=True)
class Version:
    """One version of a row."""

    version: str
    #: Texts that differ from the original's, by column.
    texts: list[tuple[str, str]]
    #: Columns whose text is the same as the original's.
    same: list[str]
    #: Why it was dropped; None: it was kept.
    reason: str | None
    similarity: float | None


@dataclass(frozen=True)
class Family:
    """An original and the versions made from it."""

    row_id: str
    original: list[tuple[str, str]]
    versions: list[Version]


@dataclass(frozen=True)
class Style:
    """What became of all rows of one version."""

    version: str
    made: int
    accepted: int
    #: Rows that left, by reason.
    reasons: dict[str, int]
    bar: Markup
    #: Histogram of similarities to the original: all versions, in front of them the accepted ones.
    similarity: Markup | None


@dataclass(frozen=True)
class Versions:
    """The section."""

    styles: list[Style]
    #: All reasons, the most frequent first.
    reasons: list[str]
    families: list[Family]
    #: Units that were counted, of all.
    units: int
    of_units: int


def read(reader: ReportReader) -> Versions | None:
    """Count and read versions; None where no row has one."""
    segments = segments_with(reader, "version")
    if not segments:
        return None
    units = some_units(reader)
    tallies, counted = _count(reader, segments, units)
    tallies.pop(ORIGINAL, None)
    if not tallies or len(tallies) > _MOST:
        return None
    reasons: Counter[str] = Counter()
    for tally in tallies.values():
        reasons.update(tally.reasons)
    most = max(tally.made for tally in tallies.values())
    return Versions(
        styles=[_style(name, tally, most) for name, tally in tallies.items()],
        reasons=[reason for reason, _ in sorted(reasons.items(), key=lambda r: (-r[1], r[0]))],
        families=_families(reader, segments, list(tallies)),
        units=counted,
        of_units=len(reader.units),
    )


class _Tally:
    """Counts of one version."""

    def __init__(self) -> None:
        self.made = 0
        self.reasons: Counter[str] = Counter()
        #: Similarities by bin: of all, and of those that were accepted.
        self.similar: Counter[float] = Counter()
        self.similar_accepted: Counter[float] = Counter()

    def add(self, row: dict[str, Any]) -> None:
        self.made += 1
        accepted = row["status"] == KEPT
        if not accepted:
            self.reasons[reason_code(row["reason"] or "?")] += 1
        if (similarity := row["similarity"]) is not None:
            value = round(float(similarity), 2)
            self.similar[value] += 1
            self.similar_accepted[value] += accepted


def _count(
    reader: ReportReader, segments: list[SegmentFolder], units: list[Unit]
) -> tuple[dict[str, _Tally], int]:
    """What became of every row with a version, by version in the order in which they were made."""
    tallies: dict[str, _Tally] = defaultdict(_Tally)
    counted = rows = 0
    for unit in units:
        if rows >= _ROWS:
            break
        here = _outcomes(reader, segments, unit)
        for row in here.values():
            tallies[str(row["version"])].add(row)
        counted, rows = counted + 1, rows + len(here)
    return {name: tallies[name] for name in _order(reader, tallies)}, counted


def _outcomes(
    reader: ReportReader, segments: list[SegmentFolder], unit: Unit
) -> dict[str, dict[str, Any]]:
    """The rows of a unit that have a version, as the last segment that has them left them."""
    outcomes: dict[str, dict[str, Any]] = {}
    names = ["row_id", "version", "status", "reason", "similarity"]
    for segment in segments:
        rows = reader.columns(segment, unit, names)
        if rows is None:
            break
        for row in rows.to_pylist():
            if row["version"] is not None:
                outcomes[row["row_id"]] = row
    return outcomes


def _order(reader: ReportReader, tallies: dict[str, _Tally]) -> list[str]:
    """Versions by the stages that made them (``augment-formal``), else by name."""
    stages = [entry.account.name for entry in reader.ledger.entries]

    def place(name: str) -> tuple[int, str]:
        made_by = [i for i, stage in enumerate(stages) if stage.split("-")[-1] == name]
        return (made_by[0] if made_by else len(stages), name)

    return sorted(tallies, key=place)


def _style(name: str, tally: _Tally, most: int) -> Style:
    accepted = tally.made - tally.reasons.total()
    shares = meter(("kept", accepted / most), ("dropped", (tally.made - accepted) / most))
    chart = None
    if tally.similar:
        of_all = binned(_SIMILARITY, _BINS, tally.similar.items())
        of_accepted = binned(_SIMILARITY, _BINS, tally.similar_accepted.items())
        whole = tally.similar.total()
        series = [("dropped", of_all, whole), ("kept", of_accepted, whole)]
        chart = histogram(_SIMILARITY, _TICKS, series, "similarity")
    return Style(name, tally.made, accepted, dict(tally.reasons), shares, chart)


def _families(
    reader: ReportReader, segments: list[SegmentFolder], order: list[str]
) -> list[Family]:
    """Originals with all their versions, chosen by their ids; those with a rejected one first."""
    texts = text_columns(reader, reader.schema(segments[-1]))
    families: list[Family] = []
    for unit in some_units(reader, _PARTS):
        families += _families_of(reader, segments, unit, texts, order)
        if len(families) >= _PARENTS:
            break
    families = families[:_PARENTS]
    # Rejected versions are the most instructive. Sorting is stable: otherwise the order stays.
    families.sort(key=lambda family: all(version.reason is None for version in family.versions))
    return families


def _families_of(
    reader: ReportReader,
    segments: list[SegmentFolder],
    unit: Unit,
    texts: list[str],
    order: list[str],
) -> list[Family]:
    rows: dict[str, dict[str, Any]] = {}
    sources = [f"source_{name}" for name in texts]
    envelope = ["row_id", "parent_id", "status", "reason", "version", "similarity"]
    for segment in segments:
        table = reader.columns(segment, unit, [*envelope, *texts, *sources])
        for row in table.to_pylist() if table is not None else []:
            rows[row["row_id"]] = row
    children: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows.values():
        if row["parent_id"] is not None and row["version"] in order:
            children[row["parent_id"]].append(row)
    return [
        _family(parent, rows.get(parent), children[parent], texts, order)
        for parent in sorted(children)[:_PARENTS]
    ]


def _family(
    parent: str,
    row: dict[str, Any] | None,
    children: list[dict[str, Any]],
    texts: list[str],
    order: list[str],
) -> Family:
    children.sort(key=lambda child: (order.index(child["version"]), child["row_id"]))
    # A version carries the texts it was made from: the original itself may be in another unit.
    made_from = {name: children[0][f"source_{name}"] for name in texts}
    original = {n: made_from[n] if made_from[n] is not None else (row or {}).get(n) for n in texts}
    return Family(
        parent,
        _shown(original),
        [
            Version(
                child["version"],
                _shown({n: child[n] for n in texts if child[n] != original[n]}),
                [name for name in texts if child[name] == original[name]],
                None if child["status"] == KEPT else plain(child["reason"] or child["status"]),
                child["similarity"],
            )
            for child in children
        ],
    )


def _shown(texts: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, shortened(plain(text), _TEXT)) for name, text in texts.items()]


SECTION = Section("versions", "Versions and their originals", "versions.html.j2", read)
