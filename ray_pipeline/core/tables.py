"""Tables too large for one process: the interface that decide stages are written against.

A `Tables` is an Arrow table in parts. A few operations cover what decide stages need: map over
the parts, group rows with equal keys, and join rows with the rows that they refer to. The engine
runs them on the cluster through storage (`ray_pipeline.engine.stored_tables`). The number of parts
and where they are processed never affect a result, because every group arrives whole and sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, Self

import pyarrow as pa

#: The column that identifies a row within a run: the ordinal of its unit in the upper 32 bits, its
#: position among the unit's kept rows in the lower ones. Small and fast to sort; not comparable
#: between runs.
REF = "ref"

Work = Callable[[pa.Table], pa.Table]
WorkWith = Callable[[pa.Table, pa.Table], pa.Table]


class Tables(Protocol):
    """A table in parts. Operations are lazy: nothing is computed before it is needed."""

    @property
    def num_rows(self) -> int:
        """Rows of all parts."""

    def saved(self) -> Self:
        """The same table, computed now and stored. Call it on a table that is used repeatedly."""

    def map(self, work: Work) -> Self:
        """Apply ``work`` to each part. Its result must not depend on how the parts are cut."""

    def map_with(self, small: Self, work: WorkWith) -> Self:
        """Apply ``work(part, all of small)`` to each part; ``small`` must fit in memory."""

    def also(self, other: Self) -> Self:
        """The rows of this table and of ``other``; columns that only one has are null elsewhere."""

    def group(
        self, by: Sequence[str], work: Work, *, order: Sequence[str] = (), fan_out: float = 1
    ) -> Self:
        """Apply ``work`` to parts that hold every row of each of their groups.

        Args:
            by: columns of a group's key; the first one is an integer, best a hash.
            work: is passed several whole groups, sorted by ``by`` and then ``order``.
            order: columns that sort the rows of a group; ties must not affect the result.
            fan_out: output rows per input row of the pending operations; it determines the
                number of parts.
        """

    def meet(self, home: Self, on: str, work: WorkWith) -> Self:
        """Apply ``work(part, part of home)``, where each row meets the ``home`` row it refers to.

        Args:
            home: a table with the column ``ref``, made from the stage's keys by ``map`` alone.
            on: the column of this table with the refs of ``home`` rows.
            work: its first argument is sorted by all columns whose type can be sorted.
        """
