"""Groups of rows that belong together: how they are counted, and what is shown of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from markupsafe import Markup

from ray_pipeline.core.text import count
from ray_pipeline.report.drawing import columns
from ray_pipeline.report.reading import ReportReader, texts_of
from ray_pipeline.rundir.reader import SegmentFolder
from ray_pipeline.rundir.units import Unit

#: Rows that are put into groups at most: they are what takes memory.
MOST_ROWS = 200_000
#: Largest groups that are shown.
LARGEST = 6
#: Characters of a text.
TEXT = 280
#: Rows of a group that are shown beside the one that was kept.
_MEMBERS = 4
#: Sizes of groups that are counted together: least and most rows.
_SIZES = ((2, 2), (3, 3), (4, 4), (5, 9), (10, 99), (100, None))

#: Columns of a row with their texts.
Texts = list[tuple[str, str]]


@dataclass(frozen=True)
class Member:
    """A row of a group."""

    row_id: str
    texts: Texts
    reason: str | None = None
    similarity: float | None = None


@dataclass(frozen=True)
class Group:
    """Rows that belong together."""

    rows: int
    members: list[Member]
    #: The row that was kept instead of `members`; None in groups without one, or not found.
    representative: Member | None = None


@dataclass(frozen=True)
class Place:
    """Where a row is stored, so that its text can be read once it is known to be shown."""

    row_id: str
    segment: SegmentFolder
    unit: Unit
    reason: str | None = None
    similarity: float | None = None


@dataclass
class Tally:
    """A group while it is counted."""

    rows: int = 0
    #: Of the rows that will be shown, the least similar ones first.
    places: list[Place] = field(default_factory=list)

    def add(self, place: Place) -> None:
        """Count a row."""
        self.rows += 1
        self.places.append(place)
        # A group is as good as its least similar pair.
        self.places.sort(key=lambda p: (p.similarity if p.similarity is not None else 2, p.row_id))
        del self.places[_MEMBERS:]

    @property
    def lowest_similarity(self) -> float:
        """Of its rows; above 1 where no similarity is known."""
        similarity = self.places[0].similarity
        return similarity if similarity is not None else 2.0


def members(tally: Tally, texts: dict[str, Texts]) -> list[Member]:
    """The rows of a group that are shown."""
    return [Member(p.row_id, texts.get(p.row_id, []), p.reason, p.similarity) for p in tally.places]


def texts_at(reader: ReportReader, tallies: Iterable[Tally]) -> dict[str, Texts]:
    """The texts of the groups' shown rows, by row id; each part is read once."""
    by_part: dict[tuple[SegmentFolder, Unit], set[str]] = defaultdict(set)
    for tally in tallies:
        for place in tally.places:
            by_part[place.segment, place.unit].add(place.row_id)
    texts: dict[str, Texts] = {}
    for (segment, unit), row_ids in by_part.items():
        texts |= texts_of(reader, segment, unit, row_ids, TEXT)
    return texts


def sizes_chart(sizes: Iterable[int]) -> Markup:
    """How many groups there are by their number of rows."""
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
