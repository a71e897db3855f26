"""The files of subsets: rows are sorted on disk and written as they are read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

#: Rows of one rank after the other that are sorted together.
_BUCKET_ROWS = 20_000
#: Bytes of rows that are gathered before they are written, here and in a row group.
_GATHERED = 32 * 2**20
_GROUP_ROWS = 10_000
#: Sources that figures name; beyond, the smaller ones are one figure.
_SOURCES = 100


class InOrder:
    """Sorts rows by rank on disk; only one bucket of rows is in memory.

    Args:
        folder: of this machine, for files as large as the rows.
        rank: the column that orders them, counted from 0.
    """

    def __init__(self, folder: Path, rank: str) -> None:
        self._folder, self._rank = folder, rank
        folder.mkdir(parents=True)
        self._gathered: list[pa.Table] = []
        #: For each file, the place in it of each bucket that it has rows of.
        self._files: list[dict[int, int]] = []

    def add(self, rows: pa.Table) -> None:
        """Add rows in any order."""
        self._gathered.append(rows)
        if sum(table.nbytes for table in self._gathered) > _GATHERED:
            self._write()

    def _write(self) -> None:
        rows = pa.concat_tables(self._gathered).combine_chunks()
        self._gathered = []
        rows = rows.take(pc.sort_indices(rows[self._rank]))
        buckets, starts = np.unique(rows[self._rank].to_numpy() // _BUCKET_ROWS, return_index=True)
        with pa.ipc.new_file(str(self._path(len(self._files))), rows.schema) as writer:
            for start, end in zip(starts, [*starts[1:], rows.num_rows], strict=True):
                part = rows.slice(start, end - start).combine_chunks()
                writer.write_batch(part.to_batches()[0])
        self._files.append({int(bucket): place for place, bucket in enumerate(buckets)})

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.arrow"

    def tables(self) -> Iterator[pa.Table]:
        """All rows, in the order of their rank."""
        if self._gathered:
            self._write()
        for bucket in sorted({bucket for file in self._files for bucket in file}):
            batches = []
            for number, places in enumerate(self._files):
                if bucket in places:
                    file = pa.ipc.open_file(pa.memory_map(str(self._path(number))))
                    batches.append(file.get_batch(places[bucket]))
            rows = pa.Table.from_batches(batches)
            yield rows.take(pc.sort_indices(rows[self._rank]))


class ParquetFiles:
    """Files of one split: ``train-00000-of-00004.parquet``, each of ``shard_rows`` rows."""

    def __init__(self, folder: Path, split: str, rows: int, shard_rows: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._split, self._shard_rows = folder, split, shard_rows
        self._shards = max(1, -(-rows // shard_rows))
        self._shard = -1
        self._room = 0
        self._writer: pq.ParquetWriter | None = None

    def write(self, rows: pa.Table) -> None:
        """Take the next rows."""
        while self._writer is None or rows.num_rows:
            if not self._room:
                self._next(rows.schema)
            assert self._writer is not None
            here = rows.slice(0, self._room)
            self._writer.write_table(here)
            self._room -= here.num_rows
            rows = rows.slice(here.num_rows)

    def _next(self, schema: pa.Schema) -> None:
        self.close()
        self._shard += 1
        self._room = self._shard_rows
        name = f"{self._split}-{self._shard:05d}-of-{self._shards:05d}.parquet"
        self._writer = pq.ParquetWriter(self._folder / name, schema, compression="zstd")

    def close(self) -> None:
        """Finish the last file."""
        if self._writer is not None:
            self._writer.close()


@dataclass
class ScoreFigures:
    """Number, range, mean and standard deviation of scores, and tokens and sources beside them."""

    rows: int = 0
    lowest: float = math.inf
    highest: float = -math.inf
    mean: float = 0.0
    squares: float = 0.0
    tokens: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)

    def add(self, scores: np.ndarray[Any, Any]) -> None:
        """Take some scores (Chan, Golub and LeVeque, 1979)."""
        if not len(scores):
            return
        self.lowest = min(self.lowest, float(scores.min()))
        self.highest = max(self.highest, float(scores.max()))
        mean, number = float(scores.mean()), self.rows + len(scores)
        self.squares += float(((scores - mean) ** 2).sum())
        self.squares += (mean - self.mean) ** 2 * self.rows * len(scores) / number
        self.mean += (mean - self.mean) * len(scores) / number
        self.rows = number

    def add_sources(self, column: pa.ChunkedArray) -> None:
        """Count the rows of each source."""
        for one in pc.value_counts(column).to_pylist():
            self.sources[str(one["values"])] += one["counts"]

    def by_source(self) -> dict[str, int]:
        """The most frequent sources; the others are counted under ``(others)``."""
        found = sorted(self.sources.items(), key=lambda pair: (-pair[1], pair[0]))
        named = dict(found[:_SOURCES])
        rest = sum(number for _, number in found[_SOURCES:])
        return named | ({"(others)": rest} if rest else {})

    def as_json(self) -> dict[str, Any]:
        """The figures as plain data for ``metrics.json``."""
        figures: dict[str, Any] = {
            "rows": self.rows,
            **self.tokens,
            "score_min": self.lowest,
            "score_max": self.highest,
            "score_mean": self.mean,
            "score_std": math.sqrt(self.squares / self.rows) if self.rows else 0.0,
        }
        return figures | ({"by_source": self.by_source()} if self.sources else {})


def arrow_stream(path: Path, schema: pa.Schema) -> pa.RecordBatchStreamWriter:
    """A stream that `datasets` reads, even when nothing is written to it."""
    stream = pa.ipc.new_stream(str(path), schema)
    stream.write_batch(pa.RecordBatch.from_pylist([], schema))
    return stream


def plain(rows: pa.Table) -> pa.Table:
    """The rows with a schema that `datasets` takes as it is: every column may be null."""
    return rows.cast(pa.schema([pa.field(field.name, field.type) for field in rows.schema]))


class SubsetWriter:
    """The train files of one subset: Parquet, the Arrow file of its dataset, and its scores.

    Args:
        folder: of the subset; its scores come beside it.
        arrow: the file that the Hugging Face dataset is made of.
        rows: total number of rows.
        shard_rows: rows of a Parquet file.
        scores: columns of the file of scores, by their names in it.
    """

    def __init__(
        self, folder: Path, arrow: Path, rows: int, shard_rows: int, scores: dict[str, str]
    ) -> None:
        self.figures = ScoreFigures()
        self._parquet = ParquetFiles(folder, "train", rows, shard_rows)
        self._arrow = arrow
        self._csv = folder.with_name(f"{folder.name}_scores.csv")
        self._scores = scores
        self._gathered: list[pa.Table] = []
        self._streams: tuple[Any, Any] | None = None

    def add(self, rows: pa.Table) -> None:
        """Take the next rows."""
        self._gathered.append(rows)
        if sum(table.num_rows for table in self._gathered) >= _GROUP_ROWS:
            self._write()

    def _write(self) -> None:
        rows = pa.concat_tables(self._gathered).combine_chunks()
        self._gathered = []
        scores = rows.select(list(self._scores.values())).rename_columns(list(self._scores))
        if self._streams is None:
            self._streams = (
                arrow_stream(self._arrow, rows.schema),
                pacsv.CSVWriter(str(self._csv), scores.schema),
            )
        self._parquet.write(rows)
        self._streams[0].write_table(rows)
        self._streams[1].write_table(scores)

    def close(self) -> None:
        """Finish the files."""
        if self._gathered:
            self._write()
        self._parquet.close()
        for stream in self._streams or ():
            stream.close()


def arrow_to_parquet(arrow: Path, folder: Path, split: str, rows: int, shard_rows: int) -> None:
    """Write Parquet files from an Arrow stream, one row group at a time."""
    files = ParquetFiles(folder, split, rows, shard_rows)
    with pa.memory_map(str(arrow)) as file, pa.ipc.open_stream(file) as stream:
        gathered: list[pa.RecordBatch] = []
        for batch in stream:
            gathered.append(batch)
            if sum(one.num_rows for one in gathered) >= _GROUP_ROWS:
                files.write(pa.Table.from_batches(gathered))
                gathered = []
        files.write(pa.Table.from_batches(gathered, stream.schema))
    files.close()


def save_dataset(folder: Path, splits: dict[str, Path]) -> None:
    """A folder for ``datasets.load_from_disk``, of an Arrow stream for each split."""
    import datasets

    dataset = datasets.DatasetDict(
        {split: datasets.Dataset.from_file(str(path)) for split, path in splits.items()}
    )
    # By itself it writes no file of no rows, and cannot read that again.
    shards = {split: None if rows.num_rows else 1 for split, rows in dataset.items()}
    dataset.save_to_disk(str(folder), num_shards=shards)


def held_by(rows: pa.Table, name: str) -> pa.Array:
    """Whether ``subsets`` of each row has this name."""
    lists = rows["subsets"].combine_chunks()
    parents = pc.list_parent_indices(lists).to_numpy()
    found = pc.equal(pc.list_flatten(lists), name).to_numpy(zero_copy_only=False)
    held = np.zeros(len(lists), bool)
    held[parents[found.astype(bool)]] = True
    return pa.array(held)


def count_names(subsets: pa.ChunkedArray, names: Sequence[str]) -> Counter[str]:
    """Number of rows of each subset."""
    flat = pc.value_counts(pc.list_flatten(subsets))
    counts = {one["values"]: one["counts"] for one in flat.to_pylist()}
    return Counter({name: counts.get(name, 0) for name in names})
