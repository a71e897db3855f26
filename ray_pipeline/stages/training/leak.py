"""Measures what the held-out rows have in common with the rows that models are trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.core.tables import REF, Tables
from ray_pipeline.stage import DecideStage, Stage, StageConfig
from ray_pipeline.stages.subsets.select import SelectSubsets
from ray_pipeline.stages.text.keys import run_starts
from ray_pipeline.stages.training.twins import Twins, TwinsConfig

TRAIN, TEST = "train", "test"

Bits = npt.NDArray[np.uint64]


class MeasureLeak(DecideStage):
    """Writes ``twins``: for each test row, the sets of training rows that hold a twin of it.

    Each entry is ``SET:KIND``: ``train`` (all training rows) or the name of a subset or control,
    and ``text`` (nearly the same text) or the column whose text is equal. Null for a row without
    a twin, and for rows that are not tested on. Counts the test rows, and those with a twin in
    each set. It looks for twins as `SplitGroups` does, but after the split and whatever made it.

    Args:
        texts: columns whose texts together are compared for similarity.
        equal: columns whose equal texts make two rows twins; at least one.
        equal_if_long: columns whose equal texts do so if they are long.
        defaults: of the configuration.
    """

    name = "measure-leak"
    writes = {"twins": pa.list_(pa.string())}
    uses_seed = True

    class Config(TwinsConfig, StageConfig):
        pass

    config: Config

    def __init__(
        self,
        *texts: str,
        equal: tuple[str, ...] = (),
        equal_if_long: tuple[str, ...] = (),
        **defaults: Any,
    ) -> None:
        super().__init__(**defaults)
        self._compared = texts, equal, equal_if_long

    @property
    def twins(self) -> Twins:
        """What makes two rows twins."""
        return Twins(*self._compared, self.config)

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The texts, the split and, in a job that selects subsets, their names."""
        reads = {**self.twins.reads, "split": pa.string()}
        return reads if len(self.sets) == 1 else {**reads, "subsets": pa.list_(pa.string())}

    @property
    def needs_stages(self) -> tuple[type[Stage], ...]:
        """The selection of subsets, in a job that has one: it names the sets."""
        return () if self.find_stage(SelectSubsets) is None else (SelectSubsets,)

    @property
    def sets(self) -> tuple[str, ...]:
        """The sets of training rows, each of which a model may be trained on."""
        select = self.find_stage(SelectSubsets)
        if select is None:
            return (TRAIN,)
        return (TRAIN, *select.config.trained_names())

    def keys(self, rows: pa.Table) -> pa.Table:
        """The keys of twins of the rows to train and to test on, and their sets as bits."""
        rows = rows.filter(pc.is_in(rows["split"], pa.array([TRAIN, TEST])))
        is_test = pc.equal(rows["split"], TEST)
        return pa.table({**self.twins.keys(rows), "test": is_test, "sets": self._bits(rows)})

    def _bits(self, rows: pa.Table) -> Bits:
        """A bit for each set that a row is in; 0 for a test row."""
        bits = pc.equal(rows["split"], TRAIN).to_numpy().astype(np.uint64)
        if len(self.sets) == 1:
            return bits
        lists = rows["subsets"].combine_chunks()
        parents = pc.list_parent_indices(lists).to_numpy()
        numbers = pc.index_in(pc.list_flatten(lists), pa.array(self.sets)).to_numpy()
        np.bitwise_or.at(bits, parents, np.uint64(1) << numbers.astype(np.uint64))
        return bits

    def decide(self, keys: Tables) -> Tables:
        """Join each test row with the sets of its twins, kind by kind."""
        keys = keys.saved()
        kinds = self.twins.kinds
        columns = [f"same_{column}" for column in self.twins.equal]
        shared = keys.map(partial(_shared, columns)).group(
            ["key"], _sets_of_equal, order=[REF], fan_out=max(1, len(columns))
        )
        pairs = self.twins.similar(keys, self.settings.seed).map(_both_ways)
        similar = pairs.meet(keys, "row", _test_rows).meet(keys, "twin", _sets_of_twin)
        found = shared.also(similar)
        return found.group([REF], partial(_decisions, self.sets, kinds), order=["kind", "sets"])

    def count(self, rows: pa.Table, counts: Counter[str]) -> None:
        """Count the test rows, and those with a twin in each set."""
        tested = rows.filter(pc.equal(rows["split"], TEST))
        counts["test rows"] += tested.num_rows
        for twins in tested["twins"].to_pylist():
            names = {twin.rpartition(":")[0] for twin in twins or ()}
            counts.update(f"test rows with a twin in {name}" for name in names)


def _shared(columns: Sequence[str], keys: pa.Table) -> pa.Table:
    """One row for each text of each row that others may have, too; kinds are numbered from 1."""
    found = [
        pa.table(
            {
                "key": keys[name],
                "kind": pa.array([kind] * keys.num_rows, pa.int64()),
                **{other: keys[other] for other in (REF, "test", "sets")},
            }
        ).filter(pc.is_valid(keys[name]))
        for kind, name in enumerate(columns, 1)
    ]
    return pa.concat_tables(found).combine_chunks()


def _sets_of_equal(groups: pa.Table) -> pa.Table:
    """For each test row: the sets of all rows with the same text."""
    first = run_starts(groups["key"])
    sets = groups["sets"].to_numpy()
    if len(sets):
        sets = np.bitwise_or.reduceat(sets, np.flatnonzero(first))[np.cumsum(first) - 1]
    found = pa.table({REF: groups[REF], "kind": groups["kind"], "sets": sets})
    return found.filter(pc.and_(groups["test"], pa.array(sets > 0)))


def _both_ways(pairs: pa.Table) -> pa.Table:
    better, worse = pairs["better"].to_numpy(), pairs["worse"].to_numpy()
    return pa.table(
        {"row": np.concatenate([better, worse]), "twin": np.concatenate([worse, better])}
    )


def _test_rows(pairs: pa.Table, keys: pa.Table) -> pa.Table:
    """The pairs whose first row is tested on."""
    at = pc.index_in(pairs["row"], keys[REF].combine_chunks())
    return pairs.filter(keys["test"].combine_chunks().take(at.combine_chunks()))


def _sets_of_twin(pairs: pa.Table, keys: pa.Table) -> pa.Table:
    """The sets that the second row of each pair is in, where it is trained on."""
    at = pc.index_in(pairs["twin"], keys[REF].combine_chunks())
    sets = keys["sets"].combine_chunks().take(at.combine_chunks())
    kinds = pa.array(np.zeros(pairs.num_rows, np.int64))
    found = pa.table({REF: pairs["row"], "kind": kinds, "sets": sets})
    return found.filter(pc.greater(found["sets"], 0))


def _decisions(sets: Sequence[str], kinds: Sequence[str], found: pa.Table) -> pa.Table:
    """One decision for each test row, with the names of its twins' sets."""
    twins: dict[int, set[str]] = {}
    columns = (found[name].to_pylist() for name in (REF, "kind", "sets"))
    for ref, kind, bits in zip(*columns, strict=True):
        names = [f"{name}:{kinds[kind]}" for i, name in enumerate(sets) if bits >> i & 1]
        twins.setdefault(ref, set()).update(names)
    nothing = pa.nulls(len(twins), pa.string())
    return pa.table(
        {
            REF: pa.array(list(twins), pa.int64()),
            "status": nothing,
            "reason": nothing,
            "twins": pa.array([sorted(names) for names in twins.values()], pa.list_(pa.string())),
        }
    )
