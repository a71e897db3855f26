"""The teacher's top-k log-probabilities at answer tokens: computed once, read by every training.

A cache is a table with a row for each row of tokens: flat lists of k entries for each of its answer
tokens, in order. Log-probabilities are stored at temperature 1, so that one cache serves any
temperature; `losses.CachedSignal` explains the use of the tail. The schema's metadata has k,
vocabulary, tokenizer and teacher, and each row a hash of its tokens: a cache of anything else is
refused.

A token takes 2 + 2 bytes for each of k (ids in 16 bits up to 65,536 tokens, else 32; float16
log-probabilities, which are right to 0.05% of their value), and 4 for the tail.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import torch
import xxhash

from ray_pipeline.core.errors import UserError
from ray_pipeline.models.device import Precision, autocast
from ray_pipeline.models.tokenizer import check_vocabulary
from ray_pipeline.train.batches import Batch, TokenRows
from ray_pipeline.train.forward import AnswerModel
from ray_pipeline.train.losses import Answers, CachedSignal, positions_at_once, top_k
from ray_pipeline.train.student import logit_count

_METADATA = b"ray_pipeline.teacher"


@dataclass(frozen=True)
class CacheInfo:
    """What a cache was computed from.

    Attributes:
        k: most likely tokens that are stored at each answer token.
        vocabulary: number of tokens, from the first, in the teacher's softmax.
        tokenizer: see `models.tokenizer.tokenizer_hash`.
        teacher: identity of its weights (see `models.revision`).
        temperature: of the stored log-probabilities; always 1.
    """

    k: int
    vocabulary: int
    tokenizer: str
    teacher: str
    temperature: float = 1.0

    def schema(self) -> pa.Schema:
        """Columns of a cache, with this as their metadata."""
        ids = pa.uint16() if self.vocabulary <= 2**16 else pa.int32()
        return pa.schema(
            [
                pa.field("row_id", pa.string(), nullable=False),
                pa.field("tokens_hash", pa.uint64(), nullable=False),
                pa.field("teacher_ids", pa.large_list(ids), nullable=False),
                pa.field("teacher_log_probs", pa.large_list(pa.float16()), nullable=False),
                pa.field("teacher_tail", pa.large_list(pa.float32()), nullable=False),
            ],
            {_METADATA: orjson.dumps(asdict(self))},
        )

    @classmethod
    def of(cls, schema: pa.Schema) -> CacheInfo:
        """Read it from a table's metadata.

        Raises:
            UserError: it is not a cache.
        """
        metadata = (schema.metadata or {}).get(_METADATA)
        if metadata is None:
            raise UserError(
                "the table is no cache of a teacher: its metadata does not say of which"
            )
        return cls(**orjson.loads(metadata))

    def to_json(self) -> str:
        """The value of the column ``teacher``; see `cache_table`."""
        return orjson.dumps(asdict(self)).decode()

    def check(self, expected: CacheInfo) -> None:
        """Compare with what a training needs.

        Raises:
            UserError: they differ; the message names every difference.
        """
        mine, other = asdict(self), asdict(expected)
        differ = [f"{key}: {mine[key]}, needed {other[key]}" for key in mine
                  if mine[key] != other[key]]  # fmt: skip
        if differ:
            raise UserError(
                f"the teacher's cache does not fit ({'; '.join(differ)}). Compute it anew, or set "
                "the training to what it was made for."
            )


def cache_table(rows: pa.Table) -> tuple[pa.Table, CacheInfo]:
    """Make a cache from rows with its columns and, in ``teacher``, its `CacheInfo` as JSON.

    Raises:
        UserError: a row has none, or rows were made by different teachers.
    """
    teachers = pc.unique(rows["teacher"].combine_chunks()).to_pylist()
    if len(teachers) != 1 or teachers[0] is None:
        raise UserError(
            f"the rows' teachers are {teachers or 'none'}: all rows to train on need the cache of "
            "one. Compute it for all of them."
        )
    info = CacheInfo(**orjson.loads(teachers[0]))
    return rows.drop_columns("teacher").cast(info.schema()), info


def tokens_hash(rows: TokenRows, row: int) -> int:
    """Identity of one row's tokens and mask."""
    ids = np.ascontiguousarray(rows.ids(row), dtype=np.int32)
    mask = np.ascontiguousarray(rows.mask(row), dtype=np.bool_)
    return xxhash.xxh3_64_intdigest(ids.tobytes() + mask.tobytes())


class CacheWriter:
    """Computes the cache of batches of rows. Each worker of a Ray Data pass has one.

    Args:
        teacher: a causal language model of transformers, on its device; it is set to evaluation.
        info: what to compute.
        precision: of the forward pass; the softmax is in float32.

    Raises:
        UserError: k is above the vocabulary, or the teacher has fewer logits than it.
    """

    def __init__(self, teacher: Any, info: CacheInfo, precision: Precision = "float32") -> None:
        if not 1 <= info.k <= info.vocabulary:
            raise UserError(f"k is {info.k}: take 1 to {info.vocabulary}, the vocabulary")
        fix = "they do not belong together"
        check_vocabulary("teacher", logit_count(teacher), info.vocabulary, fix)
        self.info = info
        self.precision = precision
        self.teacher = AnswerModel(teacher.eval())
        self.device = next(teacher.parameters()).device

    @torch.no_grad()
    def __call__(self, rows: TokenRows, batches: Iterable[Batch]) -> pa.Table:
        """The cache of rows, in their order.

        Args:
            rows: the rows.
            batches: all of them, in micro-batches of any order (`BatchPlan.in_order`).
        """
        entries: dict[int, tuple[Any, Any, Any]] = {}
        for batch in batches:
            with autocast(self.precision, self.device):
                ids, log_probs, tail = self._top_k(self.teacher(batch.to(self.device)))
            ends = np.cumsum(rows.answer_tokens[batch.rows])[:-1]
            parts = [np.split(values, ends) for values in (ids, log_probs, tail)]
            entries.update(zip(batch.rows.tolist(), zip(*parts, strict=True), strict=True))
        return cache_of(rows, [entries[row] for row in range(len(rows))], self.info)

    def _top_k(self, answers: Answers) -> tuple[Any, Any, Any]:
        """(ids, log-probabilities, tail) of all answer tokens of a batch, as numpy arrays."""
        made = []
        for states in answers.states.split(positions_at_once(answers)):
            if answers.weight is None:
                logits = states
            else:
                logits = torch.nn.functional.linear(states, answers.weight, answers.bias)
            made.append(top_k(logits[:, : self.info.vocabulary], self.info.k))
        ids, log_probs, tail = (torch.cat(parts).cpu().numpy() for parts in zip(*made, strict=True))
        return ids, log_probs.astype(np.float16), tail.astype(np.float32)


def cache_of(rows: TokenRows, entries: Sequence[tuple[Any, Any, Any]], info: CacheInfo) -> pa.Table:
    """The cache of rows from a teacher's outputs on each.

    Args:
        rows: the rows.
        entries: ids [answers, k], log-probabilities [answers, k] and tails [answers] of each row.
        info: what the outputs were computed from.
    """
    schema = info.schema()
    hashes = [tokens_hash(rows, row) for row in range(len(rows))]
    columns = [rows.row_ids.combine_chunks(), pa.array(hashes, pa.uint64())]
    for field, values in zip(list(schema)[2:], zip(*entries, strict=True), strict=True):
        offsets = np.concatenate([[0], np.cumsum([entry.size for entry in values])])
        flat = np.concatenate([entry.reshape(-1) for entry in values])
        column = pa.array(flat.astype(field.type.value_type.to_pandas_dtype()))
        columns.append(pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), column))
    return pa.Table.from_arrays(columns, schema=schema)


#: Options of `pyarrow.parquet.write_table`: splitting the bytes of numbers compresses them better.
PARQUET: dict[str, Any] = {
    "compression": "zstd",
    "use_dictionary": False,
    "use_byte_stream_split": ["teacher_ids.list.element", "teacher_log_probs.list.element"],
}


class CachedTeacher:
    """A teacher for the loop that reads its distributions from a cache.

    Args:
        table: of `CacheWriter`; its rows may be in any order, and more than are needed.
        rows: the rows to train on.
        expected: what the cache must have been computed from.

    Raises:
        UserError: the cache is of another teacher, tokenizer, k or vocabulary, lacks a row, or was
            made of other tokens.
    """

    def __init__(self, table: pa.Table, rows: TokenRows, expected: CacheInfo) -> None:
        self.info = CacheInfo.of(table.schema)
        self.info.check(expected)
        self._place = _places(table, rows)
        self._ids = _column(table, "teacher_ids")
        self._log_probs = _column(table, "teacher_log_probs")
        self._tail = _column(table, "teacher_tail")
        counts = np.diff(self._tail[0])[self._place]
        if not np.array_equal(counts, rows.answer_tokens):
            raise UserError("the teacher's cache has other numbers of answer tokens than the rows")

    def __call__(self, batch: Batch) -> CachedSignal:
        """The teacher's distributions on a batch, on the batch's device."""
        places, device = self._place[batch.rows], batch.input_ids.device
        ids, log_probs, tail = (
            torch.from_numpy(_gather(column, places, dtype)).to(device)
            for column, dtype in (
                (self._ids, np.int64),
                (self._log_probs, np.float32),
                (self._tail, np.float32),
            )
        )
        k = self.info.k
        return CachedSignal(ids.view(-1, k), log_probs.view(-1, k), tail, self.info.vocabulary)


_Column = tuple[npt.NDArray[np.int64], npt.NDArray[Any]]


def _column(table: pa.Table, name: str) -> _Column:
    """Offsets and values of a column of lists."""
    array = table[name].combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    return array.offsets.to_numpy(), array.values.to_numpy(zero_copy_only=False)


def _gather(column: _Column, places: Any, dtype: Any) -> npt.NDArray[Any]:
    offsets, values = column
    parts = [values[offsets[place] : offsets[place + 1]] for place in places]
    return np.concatenate(parts).astype(dtype)


def _places(table: pa.Table, rows: TokenRows) -> npt.NDArray[np.int64]:
    """Where each row lies in the cache; checks that it was made of the same tokens."""
    where = {row_id: place for place, row_id in enumerate(table["row_id"].to_pylist())}
    row_ids = rows.row_ids.to_pylist()
    missing = [row_id for row_id in row_ids if row_id not in where]
    if missing:
        raise UserError(
            f"the teacher's cache lacks {len(missing)} of {len(row_ids)} rows, "
            f"such as {missing[0]}: compute it for all"
        )
    places = np.array([where[row_id] for row_id in row_ids], dtype=np.int64)
    hashes = table["tokens_hash"].to_numpy()[places]
    mine = np.array([tokens_hash(rows, row) for row in range(len(rows))], dtype=np.uint64)
    if (changed := np.flatnonzero(hashes != mine)).size:
        raise UserError(
            f"{changed.size} rows have other tokens than the teacher's cache was made of, such as "
            f"{row_ids[changed[0]]}: compute it anew (was the text format or max_tokens changed?)"
        )
    return places
