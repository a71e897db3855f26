"""The test rows that models are measured on: questions of the source, and their paraphrases apart.

Of ten paraphrases of one question a model answers all well or none, so they are not ten questions;
and their wording, sometimes their reference, is another model's. What a model is worth is measured
on the rows of the source. The paraphrases show how much it depends on the wording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from ray_pipeline.rundir.layout import ORIGINAL, SPLIT, SPLIT_GROUP, TOKENS, VERSION
from ray_pipeline.rundir.stored_rows import StoredRows, is_original
from ray_pipeline.train.batches import TokenRows


@dataclass(frozen=True)
class AskedRows:
    """Rows that the models answer.

    Attributes:
        row_ids: their ids.
        questions: their questions.
        references: the answers of the source, without white space around them.
        versions: how each is worded: `ORIGINAL`, or the name of a kind of paraphrase.
        groups: names of independent questions: rows with one name ask nearly the same.
    """

    row_ids: list[str]
    questions: list[str]
    references: list[str]
    versions: list[str]
    groups: list[str]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.row_ids)

    @property
    def number_of_questions(self) -> int:
        """The number of independent questions."""
        return len(set(self.groups))


class MeasuredRows:
    """The rows of the test split.

    Args:
        rows: of the run.
        question: name of the column with the question.
        answer: name of the column with the answer.
        limit: most rows of the source that are answered.
        version_limit: most paraphrases of them that are answered, one for each row.
        seed: of the choice.
    """

    def __init__(
        self,
        rows: StoredRows,
        question: str,
        answer: str,
        *,
        limit: int,
        version_limit: int,
        seed: int,
    ) -> None:
        here = [name for name in (VERSION, SPLIT_GROUP) if name in rows.columns]
        columns = dict.fromkeys([*TOKENS, "parent_id", question, answer, *here])
        self._table = rows.mapped(list(columns), **{SPLIT: "test"})
        self._text = question, answer
        self.tokens = TokenRows(self._table)
        self._limits = limit, version_limit
        self._seed = seed

    @cached_property
    def are_originals(self) -> npt.NDArray[np.bool_]:
        """Which rows are no paraphrases; all, where the run has none. Booleans [rows]."""
        if VERSION not in self._table.column_names:
            return np.ones(len(self.tokens), bool)
        found = is_original(self._table).to_numpy()
        return found if found.any() else np.ones(len(self.tokens), bool)

    @cached_property
    def groups(self) -> npt.NDArray[np.object_]:
        """Names of the independent questions of all rows; strings [rows]."""
        names = self._table["row_id"]
        if SPLIT_GROUP in self._table.column_names:
            names = pc.coalesce(self._table[SPLIT_GROUP], names)
        found: npt.NDArray[np.object_] = names.to_numpy(zero_copy_only=False)
        return found

    @cached_property
    def originals(self) -> AskedRows:
        """The rows of the source to answer, in its order."""
        return self._asked(self._chosen)

    @cached_property
    def versions(self) -> AskedRows:
        """Paraphrases of rows that are answered, at most one of each row."""
        asked = self._table["row_id"].take(pa.array(self._chosen))
        is_of_asked = pc.is_in(self._table["parent_id"], asked.combine_chunks()).to_numpy()
        positions = np.flatnonzero(is_of_asked & ~self.are_originals)
        ids = self._table["row_id"].take(pa.array(positions)).to_pylist()
        parents = self._table["parent_id"].take(pa.array(positions)).to_pylist()
        one_each: dict[str, int] = {}
        for place in sorted(range(len(ids)), key=lambda place: _drawn(self._seed, ids[place])):
            one_each.setdefault(parents[place], int(positions[place]))
        return self._asked(sorted(list(one_each.values())[: self._limits[1]]))

    @cached_property
    def _chosen(self) -> list[int]:
        positions = np.flatnonzero(self.are_originals)
        ids = self._table["row_id"].take(pa.array(positions)).to_pylist()
        return [int(positions[place]) for place in chosen(ids, self._limits[0], self._seed)]

    def _asked(self, positions: Sequence[int]) -> AskedRows:
        rows = self._table.take(pa.array(positions, pa.int64()))
        question, answer = self._text
        versions = [ORIGINAL] * rows.num_rows
        if VERSION in rows.column_names:
            versions = pc.fill_null(rows[VERSION], ORIGINAL).to_pylist()
        return AskedRows(
            rows["row_id"].to_pylist(),
            rows[question].to_pylist(),
            [text.strip() for text in rows[answer].to_pylist()],
            versions,
            [self.groups[position] for position in positions],
        )


def chosen(row_ids: Sequence[str], number: int, seed: int) -> list[int]:
    """Positions of at most ``number`` rows, in order, drawn by hashes of their ids and the seed.

    The first ones would be of the source's beginning alone, and files are often sorted.
    """
    keys = [_drawn(seed, row_id) for row_id in row_ids]
    return sorted(sorted(range(len(keys)), key=keys.__getitem__)[:number])


def _drawn(seed: int, row_id: str) -> int:
    return xxhash.xxh3_64_intdigest(f"evaluate:{seed}:{row_id}".encode())
