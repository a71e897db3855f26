"""A split that keeps together what belongs together: groups of twins are never on two sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from ray_pipeline.core.tables import REF, Tables
from ray_pipeline.stage import DecideStage
from ray_pipeline.stages.components import components
from ray_pipeline.stages.text.keys import run_starts, text_hash
from ray_pipeline.stages.training.split import SplitConfig, SplitStage
from ray_pipeline.stages.training.twins import Twins, TwinsConfig


class SplitGroups(SplitStage, DecideStage):
    """Draws a split for each group of twins, which say nearly the same, and each other row.

    A group is a connected component: A is a twin of B, B of C, so all three are on one side. It
    gets the side drawn for one of its rows, chosen by a hash of its text, so neither the order of
    rows nor that of files matters. A row without a twin has the side that `Split` draws for it.
    Rows that are added later may connect groups, and so change sides.

    Writes ``split_group``, which names the group (null for a row without a twin), and
    ``split_group_rows``, its size. Counts the rows on each side, and those of groups.

    Args:
        texts: columns whose texts together are compared for similarity.
        equal: columns whose equal texts make two rows twins, as the instruction.
        equal_if_long: columns whose equal texts do so if they are long, as the response.
        by: as for `Split`: what belongs together whatever its text.
        defaults: of the configuration.
    """

    writes = {
        "split": pa.string(),
        "split_group": pa.string(),
        "split_group_rows": pa.int64(),
    }

    class Config(SplitConfig, TwinsConfig):
        max_group_rows: int = Field(
            20,
            ge=1,
            description="groups of more rows are always trained on: a whole group goes to one "
            "side, and would be most of a small test split",
        )

    config: Config
    #: Maximum number of connections that one process groups (16 bytes each, and their sort).
    edges_in_memory = 5_000_000

    def __init__(
        self,
        *texts: str,
        equal: tuple[str, ...] = (),
        equal_if_long: tuple[str, ...] = (),
        by: Literal["parent"] | tuple[str, ...] = "parent",
        **defaults: Any,
    ) -> None:
        super().__init__(by=by, **defaults)
        self._compared = texts, equal, equal_if_long

    @property
    def twins(self) -> Twins:
        """What makes two rows twins."""
        return Twins(*self._compared, self.config)

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The columns that are compared, and those that the split is drawn by."""
        return {**self.twins.reads, **dict.fromkeys(self._texts, pa.string())}

    def keys(self, rows: pa.Table) -> pa.Table:
        """The keys of twins, what was drawn for the row alone, and which row of a group counts."""
        roots = self.roots(rows)
        return pa.table(
            {
                **self.twins.keys(rows),
                "same_root": pa.array([text_hash(["root", root]) for root in roots], pa.uint64()),
                "drawn": pa.array([self.drawn(root) for root in roots], pa.float64()),
                "tie": pa.array([text_hash(["tie", root]) for root in roots], pa.uint64()),
            }
        )

    def decide(self, keys: Tables) -> Tables:
        """Connect twins to groups, and draw a side for each group and each other row."""
        keys = keys.saved()
        columns = ["same_root", *(f"same_{column}" for column in self.twins.equal)]
        shared = keys.map(partial(_shared, columns))
        stars = shared.group(["key"], _stars, order=[REF], fan_out=len(columns))
        pairs = self.twins.similar(keys, self.settings.seed)
        edges = pairs.map(_edges).also(stars).saved()
        if edges.num_rows <= self.edges_in_memory:
            members = edges.map(_in_one_group).group(["all"], _members)
        else:
            members = components(edges, "left", "right").map(_ends)
        members = members.group([REF], _once).map(_by_member)
        groups = members.meet(keys, "member", _with_draw)
        drawn = groups.group(
            ["component"], partial(_of_groups, self.config), order=["tie", "member"]
        )
        alone = keys.map(partial(_alone, self.config))
        return alone.also(drawn).group([REF], _group_first, order=["is_alone"], fan_out=2)

    def count(self, rows: pa.Table, counts: Counter[str]) -> None:
        """Count the rows on each side, and those that are on it because of their group."""
        counts.update(side for side in rows["split"].to_pylist() if side is not None)
        grouped = pc.is_valid(rows["split_group"])
        counts["rows in groups of twins"] += pc.sum(grouped).as_py() or 0
        large = pc.greater(rows["split_group_rows"], self.config.max_group_rows)
        counts["rows in groups too large to be tested on"] += pc.sum(large).as_py() or 0


def _shared(columns: list[str], keys: pa.Table) -> pa.Table:
    """One row for each text of each row that others may have, too."""
    found = [
        pa.table({"key": keys[name], REF: keys[REF]}).filter(pc.is_valid(keys[name]))
        for name in columns
    ]
    return pa.concat_tables(found).combine_chunks()


def _stars(groups: pa.Table) -> pa.Table:
    """Of rows that share a text: connections from the first to each other one."""
    first = run_starts(groups["key"])
    refs = groups[REF].to_numpy()
    left = refs[np.maximum.accumulate(np.where(first, np.arange(len(first)), 0))]
    return pa.table({"left": left[~first], "right": refs[~first]})


def _edges(pairs: pa.Table) -> pa.Table:
    return pairs.rename_columns(["left", "right"])


def _in_one_group(edges: pa.Table) -> pa.Table:
    return edges.append_column("all", pa.array(np.zeros(edges.num_rows, np.int64)))


def _members(edges: pa.Table) -> pa.Table:
    """Rows with the first row of their component, of all edges."""
    left, right = edges["left"].to_numpy(), edges["right"].to_numpy()
    refs, number = np.unique(np.concatenate([left, right]), return_inverse=True)
    ends = number[: len(left)], number[len(left) :]
    graph = coo_matrix((np.ones(len(left), np.int8), ends), shape=(len(refs), len(refs)))
    _, label = connected_components(graph, directed=False)
    _, first = np.unique(label, return_index=True)
    return pa.table({REF: refs, "component": refs[first[label]]})


def _ends(edges: pa.Table) -> pa.Table:
    refs = np.concatenate([edges["left"].to_numpy(), edges["right"].to_numpy()])
    return pa.table({REF: refs, "component": np.tile(edges["component"].to_numpy(), 2)})


def _once(groups: pa.Table) -> pa.Table:
    return groups.filter(pa.array(run_starts(groups[REF])))


def _by_member(members: pa.Table) -> pa.Table:
    return members.rename_columns({REF: "member"})


def _with_draw(members: pa.Table, keys: pa.Table) -> pa.Table:
    rows = keys.take(pc.index_in(members["member"], keys[REF].combine_chunks()))
    return members.append_column("drawn", rows["drawn"]).append_column("tie", rows["tie"])


def _of_groups(config: SplitGroups.Config, groups: pa.Table) -> pa.Table:
    """The side of each group: what was drawn for the row with the smallest hash."""
    first = run_starts(groups["component"])
    run = np.cumsum(first) - 1
    rows = np.bincount(run) if len(run) else run
    sides = [
        config.side(drawn) if number <= config.max_group_rows else "train"
        for drawn, number in zip(groups["drawn"].filter(first).to_pylist(), rows, strict=True)
    ]
    names = [f"{tie:016x}" for tie in groups["tie"].filter(first).to_pylist()]
    return _decisions(
        groups["member"],
        pa.array(sides, pa.string()).take(pa.array(run)),
        pa.array(names, pa.string()).take(pa.array(run)),
        pa.array(rows[run], pa.int64()),
    )


def _alone(config: SplitGroups.Config, keys: pa.Table) -> pa.Table:
    """The side of each row for itself."""
    sides = pa.array([config.side(drawn) for drawn in keys["drawn"].to_pylist()], pa.string())
    nothing = pa.nulls(keys.num_rows, pa.string())
    return _decisions(keys[REF], sides, nothing, pa.nulls(keys.num_rows, pa.int64()))


def _decisions(refs: Any, sides: pa.Array, names: pa.Array, rows: pa.Array) -> pa.Table:
    nothing = pa.nulls(len(sides), pa.string())
    return pa.table(
        {
            REF: refs,
            "is_alone": pc.is_null(names),
            "status": nothing,
            "reason": nothing,
            "split": sides,
            "split_group": names,
            "split_group_rows": rows,
        }
    )


def _group_first(decisions: pa.Table) -> pa.Table:
    """The decision of a row's group, where it is in one, instead of that for itself."""
    return _once(decisions).drop_columns(["is_alone"])
