"""Parquet files and Arrow streams: what they hold, and ranges of their rows."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from ray_pipeline.core.errors import UserError
from ray_pipeline.sources.files import locate, open_binary

_BATCH_ROWS = 8192
#: Bytes of a column that are fetched at once where a file is read from its start to its end.
_READ_AHEAD = 1 << 20


@dataclass(frozen=True)
class TableFacts:
    """What a file says about itself."""

    rows: int
    schema: pa.Schema
    #: Rows of its largest row group; an Arrow stream has none to be entered at.
    largest_group: int | None


def parquet_facts(uri: str) -> TableFacts:
    """Rows, schema and row groups of a Parquet file.

    Raises:
        UserError: it is not Parquet.
    """
    with _must_be("Parquet", uri), _opened(uri) as file:
        metadata = file.metadata
        groups = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
        schema = file.schema_arrow.remove_metadata()
        return TableFacts(metadata.num_rows, schema, max(groups, default=0))


def arrow_facts(uri: str) -> TableFacts:
    """Rows and schema of an Arrow stream, which is read to its end.

    Raises:
        UserError: it is not an Arrow stream.
    """
    with _must_be("an Arrow stream", uri), open_binary(uri) as file:
        reader = pa.ipc.open_stream(cast(Any, file))
        return TableFacts(
            sum(batch.num_rows for batch in reader), reader.schema.remove_metadata(), None
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


def batches(uri: str, format: str) -> Iterator[pa.RecordBatch]:
    """All rows of a ``parquet`` or ``arrow`` file, a few thousand at a time."""
    if format == "arrow":
        with open_binary(uri) as file:
            for batch in pa.ipc.open_stream(cast(Any, file)):
                yield batch.replace_schema_metadata(None)
        return
    # pyarrow's own read-ahead fetches every row group and keeps it until the last one is read.
    with _opened(uri, pre_buffer=False, buffer_size=_READ_AHEAD) as parquet:
        for batch in parquet.iter_batches(batch_size=_BATCH_ROWS):
            yield batch.replace_schema_metadata(None)


def read_range(uri: str, size: int, first_row: int, rows: int, names: list[str]) -> pa.Table:
    """Rows of a Parquet file; only the row groups that hold some of them are read.

    Args:
        uri: the file.
        size: its bytes, which tell a file that was replaced from the one surveyed.
        first_row: from 0.
        rows: how many.
        names: columns to read.
    """
    metadata, starts = _footer(uri, size)
    first_group = bisect.bisect_right(starts, first_row) - 1
    end_group = bisect.bisect_left(starts, first_row + rows)
    groups = list(range(max(first_group, 0), end_group))
    with _opened(uri, metadata=metadata) as file:
        # Units are read by many processes at once: threads within one only get in the way.
        table = file.read_row_groups(groups, columns=names, use_threads=False)
    return table.slice(first_row - starts[groups[0]], rows)


@lru_cache(maxsize=64)
def _footer(uri: str, size: int) -> tuple[pq.FileMetaData, list[int]]:
    """A file's metadata, and the first row of each row group (and the end of the last)."""
    with _opened(uri) as file:
        metadata = file.metadata
    groups = (metadata.row_group(index).num_rows for index in range(metadata.num_row_groups))
    return metadata, list(accumulate(groups, initial=0))


@contextmanager
def _opened(uri: str, **options: Any) -> Iterator[pq.ParquetFile]:
    fs, path = locate(uri)
    with pq.ParquetFile(path, filesystem=fs, **options) as file:
        yield file
