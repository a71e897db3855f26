"""Selection of the best rows in nested subsets, each with a random control of the same size.

The order is exact and global: by quality from the highest down, then by a hash of the row's text,
then by row id. A control is drawn by the same means in another order, that of a hash of the seed
and the text. `stages.subsets.order` orders the rows without a process that sees them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.tables import REF, Tables
from ray_pipeline.rundir.layout import ordering_name, subset_and_draw
from ray_pipeline.stage import DecideStage
from ray_pipeline.stages.subsets.config import LENGTH, SelectSubsetsConfig
from ray_pipeline.stages.subsets.order import (
    RANGE,
    by_rank,
    descending,
    mixed,
    ranked,
    ranked_within,
    with_counts,
)
from ray_pipeline.stages.text.keys import text_hash

TRAIN = "train"
#: Columns whose text breaks ties.
TEXTS = ("instruction", "response")

Bits = npt.NDArray[np.uint64]


def content_hashes(rows: pa.Table) -> Bits:
    """A hash of each row's text, which breaks ties of the score."""
    texts = [rows[name].to_pylist() for name in TEXTS]
    hashes = [text_hash([text or "" for text in row]) for row in zip(*texts, strict=True)]
    return np.array(hashes, dtype=np.uint64)


class SelectSubsets(DecideStage):
    """Writes ``quality_rank`` (0: the best) and ``subsets``, the names of a row's subsets.

    Both are set for training rows and null for the others. Nothing is dropped: a row in no subset
    has an empty list.

    A quota limits the share of each source in a subset of k rows: only the best ``max_share`` · k
    rows of each source can be taken. Subsets by rows or share are then filled from below: first
    with the next smaller subset, so that they stay nested, then with the best rows that can be
    taken. Subsets by a threshold are not filled: no row below the threshold makes up for one that
    the quota excludes.
    """

    name = "select-subsets"
    writes = {
        "quality_rank": pa.int64(),
        "subsets": pa.list_(pa.string()),
    }
    uses_seed = True
    Config = SelectSubsetsConfig

    config: SelectSubsetsConfig

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The score, the texts that break its ties, and the columns of quota and orderings."""
        of_quota = [] if self.config.quota is None else [self.config.quota.column]
        texts = dict.fromkeys((*of_quota, *TEXTS, "split"), pa.string())
        columns = {ordering.removeprefix("-") for ordering in self.config.orderings}
        tokens = {"input_ids": pa.list_(pa.int32())} if LENGTH in columns else {}
        scores = dict.fromkeys(sorted(columns - {LENGTH}), pa.float64())
        return {**texts, **scores, **tokens, "quality": pa.float64()}

    def keys(self, rows: pa.Table) -> pa.Table:
        """For training rows: two keys for their order, one for controls, and their source."""
        rows = rows.filter(pc.equal(rows["split"], TRAIN))
        quality = rows["quality"].cast(pa.float64())
        if quality.null_count or pc.any(pc.invert(pc.is_finite(quality))).as_py():
            raise RunError("a row to train on has no finite quality: weigh-scores drops such rows")
        content = content_hashes(rows)
        seed = mixed(np.array([self.settings.seed % 2**64], np.uint64))
        table = {
            REF: rows[REF],
            "worse": descending(quality.to_numpy()),
            "tie": content,
            "lot": mixed(content ^ seed),
            "row_id": rows["row_id"],
        }
        for number, ordering in enumerate(self.config.orderings):
            table[f"order{number}"] = _ordering_key(rows, ordering)
        if self.config.quota is not None:
            sources = rows[self.config.quota.column].cast(pa.string()).to_pylist()
            # Rows without a source are one source.
            hashes = [text_hash([] if s is None else ["source", s]) for s in sources]
            table["source"] = np.array(hashes, dtype=np.uint64)
        return pa.table(table)

    def decide(self, keys: Tables) -> Tables:
        """Compute the rank and the subsets of every training row."""
        pool = keys.saved()
        rows = ranked(pool, ["worse", "tie", "row_id"], "quality_rank").saved()
        limits = self._limits(rows, pool.num_rows)
        rows = self._taken(rows, "quality_rank", limits, "chosen")
        if self.config.controls:
            rows = rows.saved()
            sizes = _sizes(rows, len(self.config.subsets)).map_with(limits, _with_wanted).saved()
            for draw in range(1, self.config.most_draws + 1):
                if draw > 1:
                    rows = rows.map(partial(_with_lot, self.settings.seed, draw))
                rows = ranked(rows, ["lot", "row_id"], "lot_rank")
                rows = self._taken(rows, "lot_rank", sizes, f"drawn{draw}")
                rows = rows.map(partial(_without, "lot_rank")).saved()
            for number in range(len(self.config.orderings)):
                rows = ranked(rows, [f"order{number}", "tie", "row_id"], "order_rank")
                rows = self._taken(rows, "order_rank", sizes, f"ordered{number}")
                rows = rows.map(partial(_without, "order_rank")).saved()
        return rows.map(partial(_decisions, self._bits_of_names()))

    def _bits_of_names(self) -> list[tuple[str, str, int]]:
        """Of each subset and control: its name, and the column and the bit of its rows."""
        places = {name: place for place, name in enumerate(self.config.subsets)}
        chosen = [
            (name, f"drawn{draw}" if draw else "chosen", places[of])
            for name, of, _ in self.config.names()
            for draw in [subset_and_draw(name)[1]]
        ]
        smallest = places[self.config.smallest]
        return chosen + [
            (ordering_name(ordering), f"ordered{number}", smallest)
            for number, ordering in enumerate(self.config.orderings)
        ]

    def _limits(self, rows: Tables, pool: int) -> Tables:
        """The rows that each subset requests, and the rows that the pool has for it."""
        subsets = list(self.config.subsets.values())
        wanted = [None if subset.is_threshold else subset.of(pool) for subset in subsets]
        least = [
            int(descending(np.array([subset.min_score]))[0]) if subset.min_score is not None else 0
            for subset in subsets
        ]
        ranks = {
            number: subset.last_rank(pool)
            for number, subset in enumerate(subsets)
            if subset.quantile is not None
        }
        thresholds = rows.map(partial(_thresholds, least, ranks))
        thresholds = thresholds.group(["number"], _lowest, order=["worse"], fan_out=0).saved()
        found = rows.map_with(thresholds, _not_worse)
        return found.group(["number"], partial(_requested_rows, wanted), fan_out=0).saved()

    def _taken(self, rows: Tables, rank: str, limits: Tables, name: str) -> Tables:
        """The rows with the bits, in a column ``name``, of the subsets that take them."""
        if self.config.quota is None:
            return rows.map_with(limits, partial(_first, rank, name))
        rows = ranked_within(rows, "source", rank, "of_source")
        rows = rows.map_with(limits, partial(_eligible, self.config.quota.most))
        subsets = list(self.config.subsets.values())
        numbers = range(len(subsets))
        counted = with_counts(by_rank(rows, rank), partial(_bits, "eligible", len(subsets)))
        filled = [number for number in numbers if not subsets[number].is_threshold]
        bounded = [number for number in numbers if subsets[number].is_threshold]
        # A control is as large as its subset, threshold or not, and nested by the same rule.
        bounds = bounded if rank == "quality_rank" else []
        chains = [filled, [number for number in bounded if number not in bounds]]
        return counted.map_with(limits, partial(_under_quota, rank, name, chains, bounds))


def _with_lot(seed: int, draw: int, rows: pa.Table) -> pa.Table:
    """The rows with the key of another draw, which depends on the seed, its number and the text."""
    of_draw = mixed(mixed(np.array([seed % 2**64], np.uint64)) + np.uint64(draw))
    lot = mixed(rows["tie"].to_numpy() ^ of_draw)
    return rows.set_column(rows.schema.get_field_index("lot"), "lot", pa.array(lot))


def _ordering_key(rows: pa.Table, ordering: str) -> Bits:
    """A key that is ascending from the first row of an ordering to the last.

    Rows without a value, or with one that is not a number, come last.
    """
    column = ordering.removeprefix("-")
    values = pc.list_value_length(rows["input_ids"]) if column == LENGTH else rows[column]
    numbers = values.cast(pa.float64()).to_numpy()
    numbers = -numbers if ordering.startswith("-") else numbers
    return descending(np.where(np.isnan(numbers), -np.inf, numbers))


def _without(column: str, rows: pa.Table) -> pa.Table:
    return rows.drop_columns([column])


def _thresholds(least: list[int], ranks: dict[int, int], rows: pa.Table) -> pa.Table:
    """The threshold of each subset that this part of the rows can tell, as a descending key."""
    place = rows["quality_rank"].to_numpy()
    worse = rows["worse"].to_numpy()
    numbers, scores = list(range(len(least))), list(least)
    for number, rank in ranks.items():
        found = worse[place == rank].tolist()
        numbers += [number] * len(found)
        scores += found
    return pa.table({"number": pa.array(numbers), "worse": pa.array(scores, pa.uint64())})


def _lowest(thresholds: pa.Table) -> pa.Table:
    """One threshold per subset, from whichever part had it."""
    return (
        thresholds.group_by("number").aggregate([("worse", "max")]).select(["number", "worse_max"])
    )


def _not_worse(rows: pa.Table, thresholds: pa.Table) -> pa.Table:
    """The number of rows of a part that are not below each threshold."""
    scores = rows["worse"].to_numpy()
    counts = [int((scores <= limit).sum()) for limit in thresholds["worse_max"].to_pylist()]
    return pa.table({"number": thresholds["number"], "rows": pa.array(counts, pa.int64())})


def _requested_rows(wanted: Sequence[int | None], found: pa.Table) -> pa.Table:
    """The number of rows of each subset: as configured, or those at its threshold or above.

    ``size`` limits it; for a control, it is replaced by the size of its subset.
    """
    sums = found.group_by("number").aggregate([("rows", "sum")]).sort_by("number")
    rows = [
        count if (fixed := wanted[number]) is None else fixed
        for number, count in zip(
            *(sums[c].to_pylist() for c in ("number", "rows_sum")), strict=True
        )
    ]
    asked = pa.array(rows, pa.int64())
    return pa.table({"number": sums["number"], "wanted": asked, "size": asked})


def _bits(column: str, number: int, rows: pa.Table) -> dict[str, npt.NDArray[np.bool_]]:
    """The bits of a column, as one boolean array per bit."""
    bits = rows[column].to_numpy()
    return {f"c{i}": (bits >> np.uint64(i)) & np.uint64(1) != 0 for i in range(number)}


def _joined(members: Sequence[npt.NDArray[np.bool_]]) -> pa.Array:
    bits = np.zeros(len(members[0]), np.uint64)
    for number, member in enumerate(members):
        bits |= member.astype(np.uint64) << np.uint64(number)
    return pa.array(bits)


def _columns(limits: pa.Table) -> tuple[list[int], list[int]]:
    limits = limits.sort_by("number")
    return limits["wanted"].to_pylist(), limits["size"].to_pylist()


def _first(rank: str, name: str, rows: pa.Table, limits: pa.Table) -> pa.Table:
    place = rows[rank].to_numpy()
    return rows.append_column(name, _joined([place < size for size in _columns(limits)[1]]))


def _eligible(most: Any, rows: pa.Table, limits: pa.Table) -> pa.Table:
    """Add the bits of the subsets in which the quota of a row's source has room for the row."""
    place = rows["of_source"].to_numpy()
    bits = _joined([place < most(wanted) for wanted in _columns(limits)[0]])
    return rows.drop_columns(["of_source"]).append_column("eligible", bits)


def _under_quota(
    rank: str,
    name: str,
    chains: Sequence[Sequence[int]],
    bounded: Sequence[int],
    rows: pa.Table,
    limits: pa.Table,
) -> pa.Table:
    """Add the bits of the subsets that take each row.

    Each subset of a chain takes the one before it, and then the first further eligible rows. The
    number of these up to a row follows from the counts of eligible rows, subset by subset.
    """
    wanted, sizes = _columns(limits)
    eligible = _bits("eligible", len(sizes), rows)
    members = [np.zeros(rows.num_rows, bool) for _ in sizes]
    for number in bounded:
        members[number] = eligible[f"c{number}"] & (rows[rank].to_numpy() < sizes[number])
    for chain in chains:
        inside, up_to, held = np.zeros(rows.num_rows, bool), np.zeros(rows.num_rows, np.int64), 0
        for number in sorted(chain, key=lambda i: (wanted[i], i)):
            room = sizes[number] - held
            further = rows[f"c{number}"].to_numpy() - up_to
            inside = inside | (eligible[f"c{number}"] & (further <= room))
            up_to = up_to + np.minimum(further, room)
            if rows.num_rows:
                held += min(rows[f"c{number}_total"][0].as_py() - held, room)
            members[number] = inside
    counts = [f"c{i}{end}" for i in range(len(sizes)) for end in ("", "_total")]
    return rows.drop_columns([*counts, "eligible", RANGE]).append_column(name, _joined(members))


def _sizes(rows: Tables, number: int) -> Tables:
    """The number of rows of each subset."""
    counts = rows.map(partial(_rows_per_subset, number))
    return counts.group(["number"], _summed, fan_out=0)


def _rows_per_subset(number: int, rows: pa.Table) -> pa.Table:
    counts = [int(mark.sum()) for mark in _bits("chosen", number, rows).values()]
    return pa.table({"number": pa.array(range(number)), "rows": pa.array(counts, pa.int64())})


def _summed(counts: pa.Table) -> pa.Table:
    sums = counts.group_by("number").aggregate([("rows", "sum")])
    return pa.table({"number": sums["number"], "size": sums["rows_sum"]})


def _with_wanted(sizes: pa.Table, limits: pa.Table) -> pa.Table:
    wanted = limits["wanted"].take(pc.index_in(sizes["number"], limits["number"].combine_chunks()))
    return sizes.append_column("wanted", wanted)


def _decisions(places: Sequence[tuple[str, str, int]], rows: pa.Table) -> pa.Table:
    """The names of each row's subsets; ``places``: of a name, its column and its bit in that."""
    bits = _joined(
        [rows[column].to_numpy() >> np.uint64(bit) & np.uint64(1) != 0 for _, column, bit in places]
    ).to_numpy()
    found, which = np.unique(bits, return_inverse=True)
    lists = [[n for i, (n, _, _) in enumerate(places) if int(b) >> i & 1] for b in found]
    nothing = pa.nulls(rows.num_rows, pa.string())
    return pa.table(
        {
            REF: rows[REF],
            "status": nothing,
            "reason": nothing,
            "quality_rank": rows["quality_rank"],
            "subsets": pa.array(lists, pa.list_(pa.string())).take(pa.array(which, pa.int64())),
        }
    )
