"""One exact order of all rows, without a process that sees them all.

A sample sort: splitters, taken from a sample of the rows, cut the order into ranges of a bounded
number of rows; each range is sorted by itself; and what the ranges hold, counted and added up, says
how many rows come before each. Ties are part of the key down to the row id, so a million equal
scores are cut like any others, and the order depends on nothing but the rows' own keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.core.tables import REF, Tables
from ray_pipeline.stages.text.keys import run_starts

UInt64s = npt.NDArray[np.uint64]
#: Booleans, one a row, by the name of the column that is to count them.
Marks = Callable[[pa.Table], Mapping[str, npt.NDArray[np.bool_]]]

#: The number of the range that a row lies in: all rows of a range come before those of the next.
RANGE = "range"
#: Rows of a range, roughly. A task of the engine takes several.
RANGE_ROWS = 25_000
#: Sampled rows for each range. With 32, one range in six hundred is larger than 1.6 means.
_SAMPLES = 32


def descending(values: npt.NDArray[np.float64]) -> UInt64s:
    """Numbers that sort as the values do from the largest down; -0.0 is 0.0, NaN must not be."""
    bits = (values + 0.0).view(np.uint64)
    sign = np.uint64(1 << 63)
    ascending = np.where(bits & sign, ~bits, bits | sign)
    return ~ascending


def mixed(keys: UInt64s) -> UInt64s:
    """A hash of each number: the finaliser of splitmix64."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))


def in_ranges(rows: Tables, by: Sequence[str]) -> Tables:
    """The rows with their range; each part holds whole ranges, sorted by range and ``by``.

    Args:
        rows: with ``ref``.
        by: columns that order the rows and leave no ties.
    """
    rows = rows.saved()
    ranges = rows.num_rows // RANGE_ROWS + 1
    rate = min(1.0, ranges * _SAMPLES / max(1, rows.num_rows)) if ranges > 1 else 0.0
    sample = rows.map(partial(_sampled, list(by), rate))
    splitters = sample.group(["all"], partial(_splitters, list(by), ranges), order=by, fan_out=0)
    placed = rows.map_with(splitters.saved(), partial(_with_range, list(by)))
    return placed.group([RANGE], _as_they_are, order=by).saved()


def _as_they_are(rows: pa.Table) -> pa.Table:
    return rows


def _sampled(by: list[str], rate: float, rows: pa.Table) -> pa.Table:
    """Rows drawn by their refs: another sample would cut other ranges, and give the same order."""
    drawn = mixed(rows[REF].to_numpy().astype(np.uint64)) < np.uint64(rate * (2**64 - 2**12))
    chosen = rows.select(by).filter(pa.array(drawn))
    return chosen.append_column("all", pa.array(np.zeros(chosen.num_rows, np.int64)))


def _splitters(by: list[str], ranges: int, sample: pa.Table) -> pa.Table:
    """The sample's rows between ranges, in order."""
    if not sample.num_rows:
        return sample.select(by)
    at = np.arange(1, ranges) * sample.num_rows // ranges
    return sample.select(by).take(pa.array(np.unique(at), pa.int64()))


def _with_range(by: list[str], rows: pa.Table, splitters: pa.Table) -> pa.Table:
    """How many splitters lie before each row; a row that is a splitter lies before itself."""
    if not splitters.num_rows:
        return rows.append_column(RANGE, pa.array(np.zeros(rows.num_rows, np.int64)))
    number = rows.num_rows
    is_splitter = np.arange(number + splitters.num_rows) >= number
    keys = pa.concat_tables([rows.select(by), splitters.select(by)])
    keys = keys.append_column("splitter", pa.array(is_splitter.astype(np.int8)))
    order = pc.sort_indices(keys, [(name, "ascending") for name in keys.column_names]).to_numpy()
    ranges = np.empty(len(order), np.int64)
    ranges[order] = np.cumsum(is_splitter[order])
    return rows.append_column(RANGE, pa.array(ranges[:number]))


def with_counts(ranged: Tables, marks: Marks) -> Tables:
    """The rows with running counts, over the whole order, of those that are marked.

    Args:
        ranged: as `in_ranges` gives them.
        marks: what is counted; for each of its names the rows get the columns ``NAME`` (marked rows
            up to and including this one) and ``NAME_total`` (of all rows).
    """
    sums = ranged.map(partial(_sums, marks)).group(["all"], _offsets, order=[RANGE], fan_out=0)
    return ranged.map_with(sums.saved(), partial(_running, marks))


def _range_starts(rows: pa.Table) -> npt.NDArray[np.int64]:
    return np.flatnonzero(run_starts(rows[RANGE]))


def _sums(marks: Marks, rows: pa.Table) -> pa.Table:
    starts = _range_starts(rows)
    counted = {
        name: np.add.reduceat(mark.astype(np.int64), starts) if len(starts) else np.empty(0, int)
        for name, mark in marks(rows).items()
    }
    return pa.table(
        {
            "all": np.zeros(len(starts), np.int64),
            RANGE: rows[RANGE].to_numpy()[starts],
            **counted,
        }
    )


def _offsets(sums: pa.Table) -> pa.Table:
    """What is counted in the ranges before each, and in all of them."""
    columns: dict[str, Any] = {RANGE: sums[RANGE]}
    for name in sums.column_names:
        if name not in ("all", RANGE):
            counts = sums[name].to_numpy()
            columns[name] = np.cumsum(counts) - counts
            columns[f"{name}_total"] = np.full(len(counts), counts.sum())
    return pa.table(columns)


def _running(marks: Marks, rows: pa.Table, offsets: pa.Table) -> pa.Table:
    starts = _range_starts(rows)
    lengths = np.diff([*starts, rows.num_rows])
    at = np.searchsorted(offsets[RANGE].to_numpy(), rows[RANGE].to_numpy()[starts])
    for name, mark in marks(rows).items():
        counts = np.cumsum(mark, dtype=np.int64)
        before = offsets[name].to_numpy()[at] - np.concatenate([[0], counts])[starts]
        counts += np.repeat(before, lengths)
        total = np.repeat(offsets[f"{name}_total"].to_numpy()[at], lengths)
        rows = rows.append_column(name, pa.array(counts))
        rows = rows.append_column(f"{name}_total", pa.array(total))
    return rows


def ranked(rows: Tables, by: Sequence[str], rank: str) -> Tables:
    """The rows with their place in the order ``by``: 0 for the first."""
    return with_counts(in_ranges(rows, by), partial(_every, rank)).map(partial(_from_zero, rank))


def _every(rank: str, rows: pa.Table) -> dict[str, npt.NDArray[np.bool_]]:
    return {rank: np.ones(rows.num_rows, bool)}


def _from_zero(rank: str, rows: pa.Table) -> pa.Table:
    at = rows.schema.get_field_index(rank)
    rows = rows.set_column(at, rank, pc.subtract(rows[rank], 1))
    return rows.drop_columns([f"{rank}_total", RANGE])


def ranked_within(rows: Tables, group: str, by: str, rank: str) -> Tables:
    """The rows with their place among those of one ``group``, in the order ``by``.

    A group may hold all rows: it is cut into ranges like everything else.
    """
    ranged = in_ranges(rows, [group, by])
    ends = ranged.map(partial(_ends, group)).group(["all"], _carried, order=[RANGE], fan_out=0)
    return ranged.map_with(ends.saved(), partial(_places, group, rank))


def _ends(group: str, rows: pa.Table) -> pa.Table:
    """Of each range: its first and last group, how many rows the last one has, and all."""
    starts = _range_starts(rows)
    ends = np.append(starts[1:], rows.num_rows)[: len(starts)]
    groups = rows[group].to_numpy()
    first_of_run = np.maximum.accumulate(
        np.where(run_starts(rows[RANGE], rows[group]), np.arange(len(groups)), 0)
    )
    return pa.table(
        {
            "all": np.zeros(len(starts), np.int64),
            RANGE: rows[RANGE].to_numpy()[starts],
            "first": groups[starts],
            "last": groups[ends - 1],
            "last_rows": ends - first_of_run[ends - 1],
            "rows": ends - starts,
        }
    )


def _carried(ends: pa.Table) -> pa.Table:
    """How many rows of each range's first group lie in the ranges before it."""
    carried: list[int] = []
    group, rows = None, 0
    for one in ends.to_pylist():
        carried.append(rows if one["first"] == group else 0)
        through = one["first"] == one["last"]
        group, rows = one["last"], one["last_rows"] + (carried[-1] if through else 0)
    return pa.table({RANGE: ends[RANGE], "carried": pa.array(carried, pa.int64())})


def _places(group: str, rank: str, rows: pa.Table, carried: pa.Table) -> pa.Table:
    starts = _range_starts(rows)
    number = np.arange(rows.num_rows)
    first_of_run = run_starts(rows[RANGE], rows[group])
    place = number - np.maximum.accumulate(np.where(first_of_run, number, 0))
    at = np.searchsorted(carried[RANGE].to_numpy(), rows[RANGE].to_numpy()[starts])
    before = np.repeat(carried["carried"].to_numpy()[at], np.diff([*starts, rows.num_rows]))
    groups = rows[group].to_numpy()
    first = np.repeat(groups[starts], np.diff([*starts, rows.num_rows]))
    place = place + np.where(groups == first, before, 0)
    return rows.append_column(rank, pa.array(place.astype(np.int64))).drop_columns([RANGE])


def by_rank(rows: Tables, rank: str) -> Tables:
    """The rows in the order of a rank that they have already: ranges as `in_ranges` gives them."""
    return (
        rows.map(partial(_with_range_of_rank, rank))
        .group([RANGE], _as_they_are, order=[rank])
        .saved()
    )


def _with_range_of_rank(rank: str, rows: pa.Table) -> pa.Table:
    return rows.append_column(RANGE, pa.array(rows[rank].to_numpy() // RANGE_ROWS))
