"""How scorers agree: histograms, rank correlations, scatter plots, and rows they disagree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from ray_pipeline.core.text import plain, shortened
from ray_pipeline.report.drawing import Axis, binned, histogram, scatter
from ray_pipeline.report.reading import ReportReader, segments_with, some_units
from ray_pipeline.report.section import Section
from ray_pipeline.rundir.reader import SegmentFolder, text_columns
from ray_pipeline.rundir.units import Unit

#: Scores that rate a row as a whole; and the parts that the first one is made of.
WHOLE = ("quality", "ifd", "judge_score", "novelty")
PARTS = ("clarity", "response_quality", "diversity", "complexity")
#: Stages that write them. Without one, a column of such a name comes from the source.
STAGES = {"score-quality", "score-ifd", "score-novelty", "judge-quality", "weigh-scores"}
#: Rows that are compared; units that are opened for them, and how many rows are looked at first.
_ROWS, _MOST_UNITS, _FEW_UNITS, _LOOKED_AT = 20_000, 400, 48, 200_000
#: Points of a scatter plot; bins of a histogram; fewest rows for a correlation.
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
    #: Spearman's rank correlation; None where it is not defined.
    correlation: float | None
    svg: Markup


@dataclass(frozen=True)
class Rating:
    """A row's score, and the share of rows that have a lower one."""

    name: str
    value: float
    above: float


@dataclass(frozen=True)
class Disagreement:
    """A row that one scorer ranks high and another one low."""

    row_id: str
    first: Rating
    second: Rating
    texts: list[tuple[str, str]]


@dataclass(frozen=True)
class Scorers:
    """The section."""

    scores: list[Score]
    #: A line for each score but the first: its correlation with each one before it.
    matrix: list[tuple[str, list[Pair]]]
    pairs: list[Pair]
    #: Pairs with a part of the quality score.
    part_pairs: list[Pair]
    disagreements: list[tuple[Pair, list[Disagreement]]]
    rows: int
    #: Rows that the stage with the scores had.
    of_rows: int


def read(reader: ReportReader) -> Scorers | None:
    """Compare the scores of a run's rows; None where it has none."""
    scored = _scored_segment(reader)
    if scored is None:
        return None
    segment, names = scored
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
    main_pairs = [pair for key, pair in pairs.items() if is_shown[key]]
    account = reader.entry(segment.stages[-1]).account
    return Scorers(
        scores=[_score(name, values[name]) for name in names],
        matrix=[
            (name, [pairs[other, name] for other in names[:place]])
            for place, name in enumerate(names)
            if place
        ],
        pairs=main_pairs,
        part_pairs=[pair for key, pair in pairs.items() if not is_shown[key]],
        disagreements=_disagreements(reader, segment, table, units, values, main_pairs),
        rows=table.num_rows,
        of_rows=account.rows_in + account.created,
    )


def _scored_segment(reader: ReportReader) -> tuple[SegmentFolder, list[str]] | None:
    """The segment with the most scores, the last one of several, and the names of its scores."""
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
    reader: ReportReader, segment: SegmentFolder, names: Sequence[str]
) -> tuple[list[Unit], pa.Table]:
    """The rows with the smallest ids, which are hashes, of units drawn at random.

    Returns: the units, and the rows with their id, the scores, and in ``unit`` the place of their
        unit in that list.
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
    axis = Axis.of_scores(known)
    counts = binned(axis, _BINS, ((float(value), 1) for value in known))
    svg = histogram(axis, axis.ends(), [("plain", counts, len(known))])
    return Score(name, len(known), median, low, high, svg)


def _pair(first: str, second: str, a: Floats, b: Floats) -> Pair:
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    # Rows come in the order of their ids: the first ones are as good as drawn at random.
    points = [(float(x), float(y)) for x, y in zip(a[:_POINTS], b[:_POINTS], strict=True)]
    svg = scatter(points, Axis.of_scores(a), Axis.of_scores(b)) if points else Markup("")
    return Pair(first, second, len(a), spearman(a, b), svg)


def spearman(a: Floats, b: Floats) -> float | None:
    """Spearman's rank correlation; None for fewer than three rows, or where all values are equal.

    Args:
        a: finite scores of rows.
        b: other scores of the same rows.
    """
    from scipy.stats import spearmanr

    if len(a) < _FEWEST or not np.ptp(a) or not np.ptp(b):
        return None
    return float(spearmanr(a, b).statistic)


def _disagreements(
    reader: ReportReader,
    segment: SegmentFolder,
    table: pa.Table,
    units: Sequence[Unit],
    values: dict[str, Floats],
    pairs: Sequence[Pair],
) -> list[tuple[Pair, list[Disagreement]]]:
    """For each pair the rows that one scorer ranks high and the other low, both ways round."""
    extremes = {pair: _extremes(values[pair.first], values[pair.second]) for pair in pairs}
    row_ids = table["row_id"].to_pylist()
    wanted = {rating.row for ratings in extremes.values() for rating in ratings}
    texts = _texts(reader, segment, table, units, wanted)
    return [
        (pair, [_disagreement(pair, rating, row_ids, values, texts) for rating in ratings])
        for pair, ratings in extremes.items()
        if ratings
    ]


@dataclass(frozen=True)
class _Ranked:
    """A row's place in the sample, and the share of rows below it by each of two scores."""

    row: int
    first_above: float
    second_above: float


def _extremes(first: Floats, second: Floats) -> list[_Ranked]:
    """Rows whose ranks by two scores are furthest apart: higher by the first one, then lower."""
    from scipy.stats import rankdata

    both = np.flatnonzero(np.isfinite(first) & np.isfinite(second))
    if len(both) < _FEWEST:
        return []
    a, b = ((rankdata(values[both]) - 1) / (len(both) - 1) for values in (first, second))
    lead = a - b
    # Sorting is stable, and rows come sorted by their ids.
    ahead = [i for i in np.argsort(-lead, kind="stable")[:_SHOWN] if lead[i] > 0]
    behind = [i for i in np.argsort(lead, kind="stable")[:_SHOWN] if lead[i] < 0]
    return [_Ranked(int(both[i]), float(a[i]), float(b[i])) for i in [*ahead, *behind]]


def _disagreement(
    pair: Pair,
    ranked: _Ranked,
    row_ids: Sequence[str],
    values: dict[str, Floats],
    texts: dict[str, list[tuple[str, str]]],
) -> Disagreement:
    row, row_id = ranked.row, row_ids[ranked.row]
    return Disagreement(
        plain(row_id),
        Rating(pair.first, float(values[pair.first][row]), ranked.first_above),
        Rating(pair.second, float(values[pair.second][row]), ranked.second_above),
        texts.get(row_id, []),
    )


def _texts(
    reader: ReportReader,
    segment: SegmentFolder,
    table: pa.Table,
    units: Sequence[Unit],
    wanted: set[int],
) -> dict[str, list[tuple[str, str]]]:
    """The texts of some rows of the sample, by row id."""
    schema = reader.schema(segment)
    names = [n for n in ("instruction", "response") if n in schema.names]
    names = names if len(names) == 2 else text_columns(reader, schema)
    row_ids, places = table["row_id"].to_pylist(), table["unit"].to_pylist() if wanted else []
    texts: dict[str, list[tuple[str, str]]] = {}
    for place in sorted({places[row] for row in wanted}):
        ids = pa.array([row_ids[row] for row in wanted if places[row] == place], pa.string())
        rows = reader.columns(segment, units[place], ["row_id", *names])
        if rows is None:
            continue
        for row in rows.filter(pc.is_in(rows["row_id"], ids)).to_pylist():
            texts[row["row_id"]] = [(name, shortened(plain(row[name]), _TEXT)) for name in names]
    return texts


SECTION = Section("scorers", "How the scorers agree", "scorers.html.j2", read)
