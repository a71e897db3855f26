"""Parquet files and Arrow streams: their schema, and reading ranges of their rows."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from ray_pipeline.core.arrow_types import as_plain, plain_type, why_not_held
from ray_pipeline.core.errors import UserError
from ray_pipeline.rundir.units import Unit
from ray_pipeline.sources.columns import Column
from ray_pipeline.sources.files import content_hash, head_of, locate, open_binary, size_of
from ray_pipeline.sources.format import (
    Cells,
    FileFacts,
    FileSpec,
    Format,
    ScanOptions,
    SourceFile,
)
from ray_pipeline.sources.signatures import EmptyFile, check_not_empty, not_the_data
from ray_pipeline.sources.staging import is_there, publish, staged_uri
from ray_pipeline.sources.written import EXACT_IN_DOUBLE

_BATCH_ROWS = 8192
#: Bytes of a column that are fetched at once where a whole file is read.
_READ_AHEAD = 1 << 20
#: Each unit reads the whole row groups that it is in. A file whose row groups have more than this
#: many units' rows is copied with smaller ones.
_GROUP_UNITS = 4


class _Table(NamedTuple):
    """The metadata of a file."""

    rows: int
    schema: pa.Schema
    #: Rows of the largest row group; None where the format has no row groups.
    largest_group: int | None
    #: Columns of 64-bit integers that may hold one that a double cannot.
    wide: frozenset[str]


class Parquet(Format):
    """Parquet. A file with large row groups is read from a copy with smaller ones."""

    name = "parquet"

    def scan(self, file: SourceFile, options: ScanOptions, limit: int | None) -> FileFacts:
        """See `Format.scan`. The file is hashed, but only its footer is parsed."""
        del limit
        uri = file.uri
        content = content_hash(uri)
        table = self._table(uri)
        if not table.rows and not table.schema.names:
            raise EmptyFile(f"source {uri}: a table without columns and rows: remove it")
        _check_types(table.schema, uri)
        columns = {field.name: Column.of_type(field.type) for field in table.schema}
        columns |= {name: replace(columns[name], kinds=frozenset({"wide"})) for name in table.wide}
        with open_binary(uri) as stream:
            size = size_of(stream)
        return FileFacts(
            rows=table.rows, malformed=0, columns=columns,
            chosen=options.choose(table.schema.names, columns, self, uri),
            content=content, uri=uri, size=size, layout=table,
        )  # fmt: skip

    def read(self, unit: Unit, file: FileSpec) -> Cells:
        """See `Format.read`."""
        names = list(dict.fromkeys(file.columns.values()))
        table = _read_range(unit.uri, file.size, unit.offset, unit.rows, names)
        return Cells({name: table[name] for name in names}, table.num_rows)

    def make_seekable(self, facts: FileFacts, unit_rows: int, scratch: str) -> FileFacts:
        """See `Format.make_seekable`. The copy has one row group for each unit."""
        table: _Table = facts.layout
        largest = table.largest_group
        if largest is not None and largest <= unit_rows * _GROUP_UNITS:
            return replace(facts, layout=None)
        uri = staged_uri(scratch, f"{facts.content}-{unit_rows}.parquet")
        if not is_there(uri):
            schema = _plain_schema(table.schema)
            _write_groups(self.batches(facts.uri), schema, unit_rows, uri)
        with open_binary(uri) as copy:
            return replace(facts, layout=None, uri=uri, size=size_of(copy))

    def batches(self, uri: str) -> Iterator[pa.RecordBatch]:
        """All rows of a file, a few thousand at a time."""
        # pyarrow's own read-ahead would keep every row group in memory until the last one is read.
        with _opened(uri, pre_buffer=False, buffer_size=_READ_AHEAD) as parquet:
            for batch in parquet.iter_batches(batch_size=_BATCH_ROWS):
                yield _plain_batch(batch)

    def _table(self, uri: str) -> _Table:
        _check_parquet(head_of(uri, 128), uri)
        with _must_be("Parquet", uri), _opened(uri) as file:
            metadata = file.metadata
            groups = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
            schema = file.schema_arrow.remove_metadata()
            wide = _wide_columns(metadata, schema)
            return _Table(metadata.num_rows, schema, max(groups, default=0), wide)


class ArrowStream(Parquet):
    """An Arrow stream, as `datasets` saves it; it is read from a Parquet copy."""

    def batches(self, uri: str) -> Iterator[pa.RecordBatch]:
        """All rows of a file, in the batches it was written in."""
        with open_binary(uri) as file:
            for batch in pa.ipc.open_stream(cast(Any, file)):
                yield _plain_batch(batch)

    def _table(self, uri: str) -> _Table:
        with _must_be("an Arrow stream", uri), open_binary(uri) as file:
            reader = pa.ipc.open_stream(cast(Any, file))
            rows = sum(batch.num_rows for batch in reader)
            schema = reader.schema.remove_metadata()
            wide = frozenset(field.name for field in schema if field.type == pa.int64())
            return _Table(rows, schema, None, wide)


def _check_types(schema: pa.Schema, uri: str) -> None:
    """Refuse columns that a run could not keep, before anything is done with the others."""
    for field in schema:
        if (why := why_not_held(field.type)) is not None:
            raise UserError(
                f"source {uri}: column {field.name!r} is of type {field.type}, which a run cannot "
                f"keep in its files: {why}. Write the file without the column, or with another "
                "type"
            )


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_type(plain_type(field.type)) for field in schema])


def _plain_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = [as_plain(column) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, schema=_plain_schema(batch.schema))


def _wide_columns(metadata: pq.FileMetaData, schema: pa.Schema) -> frozenset[str]:
    """See `_Table.wide`; from the statistics in the footer, without reading a value."""
    names = {field.name for field in schema if field.type == pa.int64()}
    wide = set()
    for group in (metadata.row_group(index) for index in range(metadata.num_row_groups)):
        for column in (group.column(index) for index in range(group.num_columns)):
            if column.path_in_schema in names and not _fits_a_double(column):
                wide.add(column.path_in_schema)
    return frozenset(wide)


def _fits_a_double(column: pq.ColumnChunkMetaData) -> bool:
    statistics = column.statistics
    if statistics is None or not statistics.has_min_max:
        return statistics is not None and statistics.null_count == column.num_values
    return bool(statistics.min >= -EXACT_IN_DOUBLE and statistics.max <= EXACT_IN_DOUBLE)


_MAGIC = b"PAR1"


def _check_parquet(head: bytes, uri: str) -> None:
    check_not_empty(head, "Parquet", uri)
    if (other := not_the_data(head)) is not None:
        raise UserError(f"source {uri}: expected Parquet, found {other[0]}: {other[1]}")
    if not head.startswith(_MAGIC):
        raise UserError(
            f"source {uri}: expected Parquet as its name says, found something that begins with "
            f"{head[:16]!r}: name it by what it is (.csv, .jsonl), or write it again"
        )


@contextmanager
def _must_be(what: str, uri: str) -> Iterator[None]:
    try:
        yield
    except pa.ArrowException as error:
        raise UserError(
            f"source {uri}: expected {what} as its name says, found something else or a cut "
            f"file: {error}"
        ) from None


def _write_groups(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, rows: int, uri: str
) -> None:
    """Write a Parquet file with one row group for each unit.

    Args:
        batches: the rows in order, in batches of any size.
        schema: of the batches.
        rows: rows of a row group.
        uri: the file to write.
    """
    # Statistics are not used, and would stay in memory for every group until the file is closed.
    options = {"write_statistics": False}
    with publish(uri) as out, pq.ParquetWriter(cast(Any, out), schema, **options) as writer:
        for group in _regrouped(batches, schema, rows):
            writer.write_table(group, row_group_size=rows)


def _regrouped(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, rows: int
) -> Iterator[pa.Table]:
    waiting = pa.Table.from_batches([], schema)  # `empty_table` builds no nested extension types
    for batch in batches:
        waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch], schema)])
        while waiting.num_rows >= rows:
            yield waiting.slice(0, rows)
            waiting = waiting.slice(rows)
    if waiting.num_rows:
        yield waiting


def _read_range(uri: str, size: int, first_row: int, rows: int, names: list[str]) -> pa.Table:
    """Rows of a Parquet file; only the row groups that hold some of them are read.

    Args:
        uri: the file.
        size: its size in bytes; part of the cache key, so a replaced file is opened again.
        first_row: number of the first row, from 0.
        rows: number of rows.
        names: columns to read.
    """
    metadata, starts = _footer(uri, size)
    first_group = bisect.bisect_right(starts, first_row) - 1
    end_group = bisect.bisect_left(starts, first_row + rows)
    groups = list(range(max(first_group, 0), end_group))
    with _opened(uri, metadata=metadata) as file:
        # Many processes read units at the same time, so threads within one would only contend.
        table = file.read_row_groups(groups, columns=names, use_threads=False)
    return table.slice(first_row - starts[groups[0]], rows)


@lru_cache(maxsize=64)
def _footer(uri: str, size: int) -> tuple[pq.FileMetaData, list[int]]:
    """A file's metadata, and the first row of each row group, followed by the number of rows."""
    with _opened(uri) as file:
        metadata = file.metadata
    groups = (metadata.row_group(index).num_rows for index in range(metadata.num_row_groups))
    return metadata, list(accumulate(groups, initial=0))


@contextmanager
def _opened(uri: str, **options: Any) -> Iterator[pq.ParquetFile]:
    fs, path = locate(uri)
    with pq.ParquetFile(path, filesystem=fs, **options) as file:
        yield file
