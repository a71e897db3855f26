"""The rows of a split that a training learns from: all, a subset, or without a sample."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from ray_pipeline.core.errors import UserError
from ray_pipeline.rundir.layout import SPLIT, SPLIT_GROUP, SUBSETS, TOKENS
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.train.batches import TokenRows


@dataclass(frozen=True)
class LeftOut:
    """Training rows that a training leaves out: those of questions that are sampled by hash.

    Attributes:
        share: of the questions, 0 to 1.
        seed: of the sample.
    """

    share: float
    seed: int


def token_rows(
    rows: StoredRows, split: str, subset: str | None = None, left_out: LeftOut | None = None
) -> TokenRows:
    """The tokens of a split, or of a subset's rows in it, without those that are left out.

    Raises:
        UserError: it has no rows.
    """
    part = {} if subset is None else {SUBSETS: subset}
    if left_out is None:
        table = rows.mapped(TOKENS, part, **{SPLIT: split})
    else:
        named = [name for name in ("parent_id", SPLIT_GROUP) if name in rows.columns]
        table = rows.mapped([*TOKENS, *named], part, **{SPLIT: split})
        table = table.filter(_stays(table, left_out)).select(TOKENS)
    if not table.num_rows:
        of = "" if subset is None else f" of subset '{subset}'"
        raise UserError(
            f"there are no {split} rows{of}. `ray-pipeline status RUN` shows where rows were "
            "dropped, and what the split counted"
        )
    return TokenRows(table)


def _stays(table: pa.Table, left_out: LeftOut) -> pa.Array:
    """Which rows are not left out. Rows of one question, and its paraphrases, go together."""
    names = table["row_id"]
    for name in ("parent_id", SPLIT_GROUP):
        if name in table.column_names:
            names = pc.coalesce(table[name], names)
    edge = left_out.share * 2**64
    return pa.array(
        xxhash.xxh3_64_intdigest(f"left-out:{left_out.seed}:{name}".encode()) >= edge
        for name in names.to_pylist()
    )
