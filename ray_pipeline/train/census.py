"""The rows to train on, counted in one pass over the parts before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from ray_pipeline.rundir.layout import SPLIT, SUBSETS
from ray_pipeline.rundir.stored_rows import StoredRows, rows_containing


@dataclass
class PartOfRows:
    """Size and identity of some of a run's rows.

    Attributes:
        rows: number of rows.
        tokens: number of their tokens.
        longest: tokens of the longest row.
    """

    rows: int = 0
    tokens: int = 0
    longest: int = 0
    #: Hashes of lengths, tokens and masks; three, so that the result does not depend on how rows
    #: are cut into parts.
    _hashes: list[Any] = field(default_factory=lambda: [xxhash.xxh3_128() for _ in range(3)])

    @property
    def digest(self) -> str:
        """Identity of the tokens and masks in order; independent of the cuts between parts."""
        return "".join(hashed.hexdigest() for hashed in self._hashes)

    def add(self, table: pa.Table) -> None:
        """Count rows with ``input_ids`` and ``answer_mask``."""
        ids, mask = (table[name].combine_chunks() for name in ("input_ids", "answer_mask"))
        lengths = pc.list_value_length(ids)
        values = (lengths, pc.list_flatten(ids), pc.list_flatten(mask))
        for hashed, array in zip(self._hashes, values, strict=True):
            hashed.update(np.ascontiguousarray(array.to_numpy(zero_copy_only=False)).data)
        self.rows += table.num_rows
        self.tokens += pc.sum(lengths).as_py() or 0
        self.longest = max(self.longest, pc.max(lengths).as_py() or 0)


@dataclass(frozen=True)
class Census:
    """Sizes of the subsets by name, and of the validation and test rows that all of them share."""

    subsets: dict[str, PartOfRows]
    validation: PartOfRows
    test: PartOfRows

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Rows and tokens of the subsets, by name."""
        return {name: (part.rows, part.tokens) for name, part in self.subsets.items()}

    @property
    def longest(self) -> int:
        """Tokens of the longest row in a subset."""
        return max((part.longest for part in self.subsets.values()), default=0)


def take_census(rows: StoredRows, subsets: Sequence[str]) -> Census:
    """Count the training rows of each subset, and the rows to validate and to test on."""
    census = Census({name: PartOfRows() for name in subsets}, PartOfRows(), PartOfRows())
    for table in rows.tables(["input_ids", "answer_mask", SPLIT, SUBSETS]):
        census.validation.add(table.filter(pc.equal(table[SPLIT], "validation")))
        census.test.add(table.filter(pc.equal(table[SPLIT], "test")))
        train = table.filter(pc.equal(table[SPLIT], "train"))
        for name, part in census.subsets.items():
            part.add(rows_containing(train, SUBSETS, name))
    return census
