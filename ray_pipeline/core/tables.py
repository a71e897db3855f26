"""Tables too large for one process: what a decide stage is written in.

A `Tables` is an Arrow table in parts. Three operations cover deciding: work on each part, bring
rows with equal keys together, bring rows to the place of the rows that they speak of. The engine
runs them on the cluster through storage (`ray_pipeline.engine.stored_tables`); parts, their
number and their place never show in a result, because every group arrives whole and sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, Self

import pyarrow as pa

#: Names a row within a run: the ordinal of its unit in the upper 32 bits, its position among the
#: unit's kept rows in the lower ones. Small and fast to sort; it has no meaning between runs.
REF = "ref"

Work = Callable[[pa.Table], pa.Table]
WorkWith = Callable[[pa.Table, pa.Table], pa.Table]


class Tables(Protocol):
    """A table in parts. Nothing is computed before it is needed."""

    @property
    def num_rows(self) -> int:
        """Rows of all parts."""

    def saved(self) -> Self:
        """The same, computed once: for a table that is used more than once."""

    def map(self, work: Work) -> Self:
        """``work`` on each part. It must not matter how the rows are cut into parts."""

    def map_with(self, small: Self, work: WorkWith) -> Self:
        """``work(part, all of small)`` on each part; ``small`` must fit in memory."""

    def also(self, other: Self) -> Self:
        """The rows of both; columns that one does not have are null there."""

    def group(
        self, by: Sequence[str], work: Work, *, order: Sequence[str] = (), fan_out: float = 1
    ) -> Self:
        """``work`` on parts that hold every row of each of their groups.

        Args:
            by: columns of a group's key; the first one is an integer, best a hash.
            work: gets some groups, sorted by ``by`` and then ``order``.
            order: what sorts the rows of a group; must leave no ties that matter.
            fan_out: rows that the work so far makes of one: how many parts there will be
                depends on it.
        """

    def meet(self, home: Self, on: str, work: WorkWith) -> Self:
        """``work(part, part of home)``, where each row lies with the row of ``home`` it refers to.

        Args:
            home: a table with the column ``ref``, made from the stage's keys by ``map`` alone.
            on: column of refs.
            work: gets its first part sorted by all of its columns that can be sorted.
        """
