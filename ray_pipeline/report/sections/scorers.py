"""How the scorers agree: rank correlation, histograms, scatter plots, rows on which they part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from ray_pipeline.core.text import plain, shortened
from ray_pipeline.report.drawing.charts import Bins, histogram
from ray_pipeline.report.drawing.scatter import Axis, scatter
from ray_pipeline.report.reading import segments_with, some_units
from ray_pipeline.rundir.reader import RunReader, SegmentFolder, text_columns
from ray_pipeline.rundir.units import Unit

#: Scores that say of themselves how good a row is; and the parts of the first one.
WHOLE = ("quality", "ifd", "judge_score", "novelty")
PARTS = ("clarity", "response_quality", "diversity", "complexity")
#: Stages that write them. A source may have a column of such a name that is something else.
STAGES = {"score-quality", "score-ifd", "score-novelty", "judge-quality", "weigh-scores"}
#: Rows that are compared; units that are opened for them, and how many rows are looked at first.
_ROWS, _MOST_UNITS, _FEW_UNITS, _LOOKED_AT = 20_000, 400, 48, 200_000
#: Points of a scatter plot; bins of a histogram; fewest rows that a correlation is told of.
_POINTS, _BINS, _FEWEST = 300, 25, 3
#: Rows shown on each side of a pair of scorers, and characters of a text.
_SHOWN, _TEXT = 2, 400

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Score:
    """One score over the sample."""

    name: str
    #: Rows that have it, of those in the sample.
    rows: int
    median: float
    low: float
    high: float
    svg: Markup


@dataclass(frozen=True)
class Pair:
    """Two scores over the rows that have both."""

    first: str
    second: str
    rows: int
    #: Spearman's; None where it is not defined.
    correlation: float | None
    svg: Markup


@dataclass(frozen=True)
class Rated:
    """What a score says of a row, and the share of rows that it rates lower."""

    name: str
    value: float
    above: float


@dataclass(frozen=True)
class Parting:
    """A row on which two scorers differ."""

    row_id: str
    first: Rated
    second: Rated
    texts: list[tuple[str, str]]


@dataclass(frozen=True)
class Scorers:
    """The section."""

    scores: list[Score]
    #: A line for each score but the first: its correlation with each one before it.
    matrix: list[tuple[str, list[Pair]]]
    pairs: list[Pair]
    #: Pairs that a part of the quality is in.
    part_pairs: list[Pair]
    partings: list[tuple[Pair, list[Parting]]]
    rows: int
    #: Rows that the stage with the scores had.
    of_rows: int


def scorers(reader: RunReader) -> Scorers | None:
    """Compare the scores of a run's rows; None where it has none."""
    found = _segment(reader)
    if found is None:
        return None
    segment, names = found
    units, table = _sampled(reader, segment, names)
    values = {name: _numbers(table[name]) for name in names}
    names = [name for name in names if np.isfinite(values[name]).any()]
    if not names:
        return None
    pairs = {
        (first, second): _pair(first, second, values[first], values[second])
        for first, second in combinations(names, 2)
    }
    shown = [name for name in names if name in WHOLE]
    is_shown = {key: set(key) <= set(shown) for key in pairs}
    if len(shown) < 2:  # nothing but the parts to compare
        is_shown = dict.fromkeys(pairs, True)
    apart = [pair for key, pair in pairs.items() if is_shown[key]]
    account = reader.entry(segment.stages[-1]).account
    return Scorers(
        scores=[_score(name, values[name]) for name in names],
        matrix=[
            (name, [pairs[other, name] for other in names[:place]])
            for place, name in enumerate(names)
            if place
        ],
        pairs=apart,
        part_pairs=[pair for key, pair in pairs.items() if not is_shown[key]],
        partings=list(_partings(reader, segment, table, units, values, apart)),
        rows=table.num_rows,
        of_rows=account.rows_in + account.created,
    )


def _segment(reader: RunReader) -> tuple[SegmentFolder, list[str]] | None:
    """The last of the segments that have most of the scores, and which it has."""
    if not STAGES & {entry.account.name for entry in reader.ledger.entries}:
        return None
    best: tuple[SegmentFolder, list[str]] | None = None
    for segment in segments_with(reader, "row_id"):
        schema = reader.schema(segment)
        names = [
            name
            for name in (*WHOLE, *PARTS)
            if name in schema.names and pa.types.is_floating(schema.field(name).type)
        ]
        if names and (best is None or len(names) >= len(best[1])):
            best = segment, names
    return best


def _sampled(
    reader: RunReader, segment: SegmentFolder, names: Sequence[str]
) -> tuple[list[Unit], pa.Table]:
    """The rows with the smallest ids, which are hashes, of units drawn at random; their units.

    ``unit`` of a row is the place of its unit in the list.
    """
    units: list[Unit] = []
    seen = 0
    rows: pa.Table | None = None
    for unit in some_units(reader, _MOST_UNITS):
        if len(units) >= _FEW_UNITS and seen >= _LOOKED_AT:
            break
        table = reader.columns(segment, unit, ["row_id", *names])
        if table is None:
            continue
        seen += table.num_rows
        place = pa.array(np.full(table.num_rows, len(units)))
        units.append(unit)
        table = table.append_column("unit", place)
        rows = table if rows is None else pa.concat_tables([rows, table])
        rows = rows.take(pc.sort_indices(rows["row_id"])[:_ROWS])
    empty = pa.table({name: pa.array([], pa.float64()) for name in ("row_id", *names)})
    return units, empty if rows is None else rows


def _numbers(column: pa.ChunkedArray) -> Floats:
    """A score's values; NaN for null and for what is no number."""
    values: Floats = column.cast(pa.float64()).to_numpy().astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _score(name: str, values: Floats) -> Score:
    known = values[np.isfinite(values)]
    low, median, high = (float(value) for value in np.quantile(known, [0.05, 0.5, 0.95]))
    axis = Axis.of(known)
    ends = axis.labels()
    ticks = [(axis.low, ends[0]), (axis.high, ends[1])]
    bins = Bins(axis.low, axis.high, _BINS, ticks)
    counts = bins.counts([(float(value), 1) for value in known])
    svg = histogram(bins, [("plain", counts, len(known))], "")
    return Score(name, len(known), median, low, high, svg)


def _pair(first: str, second: str, a: Floats, b: Floats) -> Pair:
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    # Rows come in the order of their ids: the first ones are as good as drawn at random.
    points = [(float(x), float(y)) for x, y in zip(a[:_POINTS], b[:_POINTS], strict=True)]
    svg = scatter(points, Axis.of(a), Axis.of(b)) if points else Markup("")
    return Pair(first, second, len(a), spearman(a, b), svg)


def spearman(a: Floats, b: Floats) -> float | None:
    """Rank correlation, ties at their mean rank; None for too few rows or all of one rank."""
    if len(a) < _FEWEST:
        return None
    x, y = (ranked(values) - (len(values) + 1) / 2 for values in (a, b))
    spread = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum()) / spread if spread else None


def ranked(values: Floats) -> Floats:
    """Ranks from 1, equal values at the mean of theirs."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: Floats = last - (counts - 1) / 2
    return mean[where]


def _partings(
    reader: RunReader,
    segment: SegmentFolder,
    table: pa.Table,
    units: Sequence[Unit],
    values: dict[str, Floats],
    pairs: Sequence[Pair],
) -> Iterator[tuple[Pair, list[Parting]]]:
    """For each pair the rows that one rates high and the other low, and the other way round."""
    row_ids = table["row_id"].to_pylist()
    chosen: list[tuple[Pair, list[int], dict[str, Floats]]] = []
    for pair in pairs:
        both = np.flatnonzero(np.isfinite(values[pair.first]) & np.isfinite(values[pair.second]))
        if len(both) < _FEWEST:
            continue
        above = {n: np.full(len(row_ids), np.nan) for n in (pair.first, pair.second)}
        for name, shares in above.items():
            shares[both] = (ranked(values[name][both]) - 1) / (len(both) - 1)
        lead = above[pair.first] - above[pair.second]
        # Sorting is stable, and rows come sorted by their ids.
        order = both[np.argsort(-lead[both], kind="stable")]
        ahead = [int(row) for row in order[:_SHOWN] if lead[row] > 0]
        back = both[np.argsort(lead[both], kind="stable")]
        behind = [int(row) for row in back[:_SHOWN] if lead[row] < 0]
        if ahead or behind:
            chosen.append((pair, [*ahead, *behind], above))
    wanted = {row for _, rows, _ in chosen for row in rows}
    texts = _texts(reader, segment, table, units, wanted)

    def rated(name: str, row: int, above: dict[str, Floats]) -> Rated:
        return Rated(name, float(values[name][row]), float(above[name][row]))

    for pair, rows, above in chosen:
        partings = [
            Parting(
                plain(row_ids[row]),
                rated(pair.first, row, above),
                rated(pair.second, row, above),
                texts.get(row_ids[row], []),
            )
            for row in rows
        ]
        yield pair, partings


def _texts(
    reader: RunReader,
    segment: SegmentFolder,
    table: pa.Table,
    units: Sequence[Unit],
    wanted: set[int],
) -> dict[str, list[tuple[str, str]]]:
    """The texts of some rows of the sample, by row id: their units are opened once more."""
    schema = reader.schema(segment)
    names = [n for n in ("instruction", "response") if n in schema.names]
    names = names if len(names) == 2 else text_columns(reader, schema)
    row_ids, places = table["row_id"].to_pylist(), table["unit"].to_pylist() if wanted else []
    found = {}
    for place in sorted({places[row] for row in wanted}):
        ids = pa.array([row_ids[row] for row in wanted if places[row] == place], pa.string())
        rows = reader.columns(segment, units[place], ["row_id", *names])
        if rows is None:
            continue
        for row in rows.filter(pc.is_in(rows["row_id"], ids)).to_pylist():
            found[row["row_id"]] = [(name, shortened(plain(row[name]), _TEXT)) for name in names]
    return found
