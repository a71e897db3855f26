"""`Tables` on storage: every step writes its parts as files, and the next step reads them.

Nothing travels between processes but through files, each put under its name in one step. So a
killed decision continues where it was, memory is bounded by a part and not by the rows, and it does
not matter which process does what. Who runs the tasks of a step is given from outside: Ray in a
run (`engine.decide`), a plain loop in tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, pairwise
from typing import Any, Protocol

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.core.storage import Storage
from ray_pipeline.core.tables import REF, Work, WorkWith

#: Rows of a part, roughly: enough for vectorised work, little enough for many parts in memory.
PART_ROWS = 250_000
#: Tables of fewer rows stay in one part: a second process would cost more than it brings.
_ONE_PART_ROWS = 20_000
_LEAST_PARTS = 8

#: The bucket of each row.
BucketOf = Callable[[pa.Table], np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Written:
    """What a task wrote."""

    rows: int


class Source(Protocol):
    """Where the parts of a table come from."""

    @property
    def parts(self) -> int:
        """How many there are."""

    @property
    def rows(self) -> int:
        """Rows that they hold together, before any work; roughly."""

    def load(self, storage: Storage, part: int) -> pa.Table:
        """One part."""


@dataclass(frozen=True)
class Saved:
    """Files of one batch each."""

    folder: str
    parts: int
    rows: int

    def load(self, storage: Storage, part: int) -> pa.Table:
        """The part's file."""
        with storage.open(_path(self.folder, part)) as file:
            return pa.ipc.open_file(file).read_all().replace_schema_metadata(None)

    def schema(self, storage: Storage) -> pa.Schema:
        """Columns and types of every part."""
        with storage.open(_path(self.folder, 0)) as file:
            return pa.ipc.open_file(file).schema.remove_metadata()


@dataclass(frozen=True)
class Union:
    """The parts of one table, then those of another, with the columns of the two."""

    first: Saved
    second: Saved

    @property
    def parts(self) -> int:
        """How many parts the two tables have together."""
        return self.first.parts + self.second.parts

    @property
    def rows(self) -> int:
        """Rows of the two tables together."""
        return self.first.rows + self.second.rows

    def load(self, storage: Storage, part: int) -> pa.Table:
        """A part of one table, with nulls in the columns that only the other has."""
        schema = pa.unify_schemas([self.first.schema(storage), self.second.schema(storage)])
        mine = part < self.first.parts
        table = (
            self.first.load(storage, part)
            if mine
            else self.second.load(storage, part - self.first.parts)
        )
        return pa.concat_tables([schema.empty_table(), table], promote_options="default")


@dataclass(frozen=True)
class Buckets:
    """Files with a batch for each part: a part is gathered from all of them, and sorted."""

    folder: str
    files: int
    parts: int
    rows: int
    sort_by: tuple[str, ...]

    def load(self, storage: Storage, part: int) -> pa.Table:
        """The part's batch of every file."""
        batches = []
        for number in range(self.files):
            with storage.open(_path(self.folder, number)) as file:
                batches.append(pa.ipc.open_file(file).get_batch(part))
        table = pa.Table.from_batches(batches).replace_schema_metadata(None).combine_chunks()
        names = self.sort_by or _sortable(table.schema)
        return table.take(pc.sort_indices(table, [(name, "ascending") for name in names]))


def _sortable(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if not pa.types.is_nested(field.type)]


def _path(folder: str, part: int) -> str:
    return f"{folder}/{part:06d}.arrow"


@dataclass(frozen=True)
class _Step:
    """One piece of work on a part; ``beside`` gives its second table."""

    work: Work | WorkWith
    beside: Callable[[Storage, int], pa.Table] | None = None

    def __call__(self, storage: Storage, part: int, table: pa.Table) -> pa.Table:
        if self.beside is None:
            return self.work(table)  # type: ignore[call-arg]
        return self.work(table, self.beside(storage, part))  # type: ignore[call-arg]


def _whole(table: Saved, storage: Storage, part: int) -> pa.Table:
    """All parts of a small table, beside whichever part of another one."""
    return pa.concat_tables(table.load(storage, i) for i in range(table.parts))


@dataclass(frozen=True)
class Task:
    """One part of one step: load it, work on it, write it. Runs in any process."""

    storage: Storage
    source: Source
    part: int
    chain: tuple[_Step, ...]
    folder: str
    #: Puts each row into one of ``buckets`` batches of the file; None: one batch.
    buckets: int = 1
    bucket_of: BucketOf | None = None

    def run(self) -> Written:
        """Do it, unless an earlier attempt did."""
        path = _path(self.folder, self.part)
        if (done := self._done(path)) is not None:
            return done
        table = self.source.load(self.storage, self.part)
        for step in self.chain:
            table = step(self.storage, self.part, table)
        self._write(path, table.combine_chunks())
        return Written(table.num_rows)

    def _done(self, path: str) -> Written | None:
        try:
            with self.storage.open(path) as file:
                metadata = pa.ipc.open_file(file).schema.metadata
        except FileNotFoundError:
            return None
        return Written(**orjson.loads(metadata[b"written"]))

    def _write(self, path: str, table: pa.Table) -> None:
        bounds = [0, table.num_rows]
        if self.bucket_of is not None:
            buckets = self.bucket_of(table)
            table = table.take(pa.array(np.argsort(buckets, kind="stable")))
            bounds = np.searchsorted(np.sort(buckets), np.arange(self.buckets + 1)).tolist()
        written = orjson.dumps({"rows": table.num_rows})
        schema = table.schema.with_metadata({"written": written})
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with (
            self.storage.writer(path) as file,
            pa.ipc.new_file(file, schema, options=options) as writer,
        ):
            for start, end in pairwise(bounds):
                writer.write_batch(_batch(table.slice(start, end - start), schema))


def _batch(table: pa.Table, schema: pa.Schema) -> pa.RecordBatch:
    columns = [column.combine_chunks() for column in table.columns]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


# Functions that give the bucket of each row. They travel to other processes as partials, which
# pickle where a closure would not.


def _by_key(column: str, buckets: int, table: pa.Table) -> np.ndarray[Any, Any]:
    """Rows with the same key go into the same bucket."""
    keys = table[column].to_numpy().astype(np.uint64)
    # A multiplication spreads keys that are small or regular numbers (splitmix64's constant).
    spread = (keys * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    return (spread % np.uint64(buckets)).astype(np.int64)


def _by_chunk(column: str, first_units: tuple[int, ...], table: pa.Table) -> np.ndarray[Any, Any]:
    """Rows go where the row lies that their ``column`` refers to.

    Args:
        column: of references, see `ray_pipeline.core.tables.REF`.
        first_units: ordinal of each chunk's first unit.
        table: the rows.
    """
    units = table[column].to_numpy() >> 32
    return np.searchsorted(np.array(first_units), units, side="right") - 1


#: Runs the tasks of a step, in any order and place, and returns what each wrote.
Runner = Callable[[str, Sequence[Task]], Sequence[Written]]


@dataclass
class Workshop:
    """Where the tables of one decision are made."""

    storage: Storage
    folder: str
    run: Runner
    #: Ordinal of the first unit of each part of the keys.
    first_units: tuple[int, ...]
    _numbers: count[int] = field(default_factory=count)

    def execute(
        self,
        what: str,
        source: Source,
        chain: tuple[_Step, ...],
        buckets: int = 1,
        bucket_of: BucketOf | None = None,
    ) -> tuple[str, list[Written]]:
        """Write the parts of ``source`` after ``chain``; returns the folder and what each holds."""
        folder = f"{self.folder}/{next(self._numbers):03d}"
        tasks = [
            Task(self.storage, source, part, chain, folder, buckets, bucket_of)
            for part in range(source.parts)
        ]
        return folder, list(self.run(what, tasks))


class StoredTables:
    """See `ray_pipeline.core.tables.Tables`, which this implements."""

    def __init__(self, workshop: Workshop, source: Source, chain: tuple[_Step, ...] = ()) -> None:
        self._workshop = workshop
        self._source = source
        self._chain = chain

    @property
    def num_rows(self) -> int:
        """Rows of all parts."""
        return self._saved().rows

    def saved(self) -> StoredTables:
        """The same, computed once."""
        self._saved()
        return self

    def map(self, work: Work) -> StoredTables:
        """``work`` on each part."""
        return StoredTables(self._workshop, self._source, (*self._chain, _Step(work)))

    def map_with(self, small: StoredTables, work: WorkWith) -> StoredTables:
        """``work`` on each part and all of ``small``."""
        step = _Step(work, partial(_whole, small._saved()))
        return StoredTables(self._workshop, self._source, (*self._chain, step))

    def also(self, other: StoredTables) -> StoredTables:
        """The rows of the two tables."""
        return StoredTables(self._workshop, Union(self._saved(), other._saved()))

    def group(
        self, by: Sequence[str], work: Work, *, order: Sequence[str] = (), fan_out: float = 1
    ) -> StoredTables:
        """``work`` on whole groups."""
        rows = int(self._source.rows * fan_out)
        parts = 1 if rows <= _ONE_PART_ROWS else max(_LEAST_PARTS, -(-rows // PART_ROWS))
        buckets = self._spread("group", partial(_by_key, by[0], parts), parts, (*by, *order))
        return StoredTables(self._workshop, buckets, (_Step(work),))

    def meet(self, home: StoredTables, on: str, work: WorkWith) -> StoredTables:
        """``work`` on rows and the rows that they refer to."""
        first_units = self._workshop.first_units
        buckets = self._spread("meet", partial(_by_chunk, on, first_units), len(first_units))
        return StoredTables(self._workshop, buckets, (_Step(work, home._saved().load),))

    def by_chunk(self) -> StoredTables:
        """Every row with the others on rows of its chunk of units, sorted."""
        first_units = self._workshop.first_units
        buckets = self._spread(
            "apply", partial(_by_chunk, REF, first_units), len(first_units), (REF,)
        )
        return StoredTables(self._workshop, buckets)

    def _spread(
        self,
        what: str,
        bucket_of: BucketOf,
        parts: int,
        sort_by: tuple[str, ...] = (),
    ) -> Buckets:
        folder, written = self._workshop.execute(what, self._source, self._chain, parts, bucket_of)
        rows = sum(part.rows for part in written)
        return Buckets(folder, len(written), parts, rows, sort_by)

    def _saved(self) -> Saved:
        if not isinstance(self._source, Saved) or self._chain:
            folder, written = self._workshop.execute("save", self._source, self._chain)
            rows = sum(part.rows for part in written)
            self._source, self._chain = Saved(folder, len(written), rows), ()
        return self._source
