"""`Tables` on storage: every step writes its parts as files, and the next step reads them.

Processes exchange data only through files that are written atomically. So a killed run of a decide
stage resumes where it was, memory is bounded by the size of a part, and any process can run any
task. The function that runs the tasks of a step is passed in: Ray in a run (`engine.decide`), a
plain loop in tests.
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

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.storage import Storage
from ray_pipeline.core.tables import REF, Work, WorkWith
from ray_pipeline.rundir.unreadable import tell

#: Approximate rows of a part: enough for vectorised work, few enough for many parts in memory.
PART_ROWS = 250_000
#: Tables with fewer rows stay in one part: another process would cost more time than it saves.
_ONE_PART_ROWS = 20_000
_LEAST_PARTS = 8

#: Returns the bucket of each row of a table, as an array of integers.
BucketOf = Callable[[pa.Table], np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Written:
    """The result of a task: how many rows it wrote."""

    rows: int


class Source(Protocol):
    """Loads the parts of a table."""

    @property
    def parts(self) -> int:
        """The number of parts."""

    @property
    def rows(self) -> int:
        """The approximate number of rows of all parts."""

    def load(self, storage: Storage, part: int) -> pa.Table:
        """Load one part, by its number from 0."""


@dataclass(frozen=True)
class Saved:
    """A stored table: one file with one batch for each part."""

    folder: str
    parts: int
    rows: int

    def load(self, storage: Storage, part: int) -> pa.Table:
        """Load the file of a part."""
        table = _read(storage, _path(self.folder, part), lambda file: file.read_all())
        return table.replace_schema_metadata(None)

    def schema(self, storage: Storage) -> pa.Schema:
        """The columns and types, which all parts share."""
        schema = _read(storage, _path(self.folder, 0), lambda file: file.schema)
        return schema.remove_metadata()


@dataclass(frozen=True)
class Union:
    """The parts of one stored table, then those of another, with the columns of either."""

    first: Saved
    second: Saved

    @property
    def parts(self) -> int:
        """The number of parts of the two tables together."""
        return self.first.parts + self.second.parts

    @property
    def rows(self) -> int:
        """The number of rows of the two tables together."""
        return self.first.rows + self.second.rows

    def load(self, storage: Storage, part: int) -> pa.Table:
        """Load a part of either table, with nulls in the columns that only the other has."""
        schema = pa.unify_schemas([self.first.schema(storage), self.second.schema(storage)])
        is_of_first = part < self.first.parts
        table = (
            self.first.load(storage, part)
            if is_of_first
            else self.second.load(storage, part - self.first.parts)
        )
        return pa.concat_tables([schema.empty_table(), table], promote_options="default")


@dataclass(frozen=True)
class Buckets:
    """A shuffled table: every file has one batch for each part, and a part is sorted on loading."""

    folder: str
    files: int
    parts: int
    rows: int
    sort_by: tuple[str, ...]

    def load(self, storage: Storage, part: int) -> pa.Table:
        """Load a part's batch from every file, and sort its rows."""
        batches = []
        for number in range(self.files):
            path = _path(self.folder, number)
            batches.append(_read(storage, path, lambda file: file.get_batch(part)))
        table = pa.Table.from_batches(batches).replace_schema_metadata(None).combine_chunks()
        names = self.sort_by or _sortable(table.schema)
        return table.take(pc.sort_indices(table, [(name, "ascending") for name in names]))


def _sortable(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if not pa.types.is_nested(field.type)]


def _path(folder: str, part: int) -> str:
    return f"{folder}/{part:06d}.arrow"


def _read(storage: Storage, path: str, read: Callable[[Any], Any]) -> Any:
    """What ``read`` returns for a file of batches.

    Raises:
        RunError: it cannot be read. If the file is damaged, it has been deleted.
    """
    try:
        with storage.open(path) as file:
            return read(pa.ipc.open_file(file))
    except (OSError, pa.ArrowInvalid) as error:
        if getattr(error, "errno", None) is None:  # not of the storage, but of what is in the file
            storage.delete(path)
        raise RunError(
            f"cannot read {storage.uri(path)}: {error}. Run again: what cannot be read is made "
            "again"
        ) from error


@dataclass(frozen=True)
class _Step:
    """A function to apply to a part; ``load_second`` loads its second argument, if it has one."""

    work: Work | WorkWith
    load_second: Callable[[Storage, int], pa.Table] | None = None

    def __call__(self, storage: Storage, part: int, table: pa.Table) -> pa.Table:
        if self.load_second is None:
            return self.work(table)  # type: ignore[call-arg]
        return self.work(table, self.load_second(storage, part))  # type: ignore[call-arg]


def _all_parts(table: Saved, storage: Storage, part: int) -> pa.Table:
    """All parts of a small table; ``part`` is that of the other table, and ignored."""
    return pa.concat_tables(table.load(storage, i) for i in range(table.parts))


@dataclass(frozen=True)
class Task:
    """One part of one step: loads it, applies the functions, writes it. Runs in any process."""

    storage: Storage
    source: Source
    part: int
    chain: tuple[_Step, ...]
    folder: str
    #: Assigns each row to one of ``buckets`` batches of the file; None: all rows in one batch.
    buckets: int = 1
    bucket_of: BucketOf | None = None

    def run(self) -> Written:
        """Run the task, unless an earlier attempt finished it."""
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
            return Written(**orjson.loads(metadata[b"written"]))
        except FileNotFoundError:
            return None
        except (pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
            tell(self.storage, path, error)
            return None

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


# Functions that return the bucket of each row. They are sent to other processes as partials,
# because closures cannot be pickled.


def _by_key(column: str, buckets: int, table: pa.Table) -> np.ndarray[Any, Any]:
    """Rows with the same key go into the same bucket."""
    keys = table[column].to_numpy().astype(np.uint64)
    # A multiplication spreads keys that are small or regular numbers (splitmix64's constant).
    spread = (keys * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    return (spread % np.uint64(buckets)).astype(np.int64)


def _by_chunk(column: str, first_units: tuple[int, ...], table: pa.Table) -> np.ndarray[Any, Any]:
    """Assign rows to the chunk of the row that they refer to.

    Args:
        column: the column of references, see `ray_pipeline.core.tables.REF`.
        first_units: ordinal of each chunk's first unit.
        table: the rows.
    """
    units = table[column].to_numpy() >> 32
    return np.searchsorted(np.array(first_units), units, side="right") - 1


#: Runs the tasks of the named step, in any order and process; returns their results in order.
Runner = Callable[[str, Sequence[Task]], Sequence[Written]]


@dataclass
class StepExecutor:
    """Executes the steps of one decide stage; each writes a table into a folder of its own."""

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
        """Apply ``chain`` to the parts of ``source`` and store the results.

        Args:
            what: name of the step, for progress lines.
            source: the input.
            chain: the functions to apply to each part, in order.
            buckets: number of batches in each file.
            bucket_of: assigns each row to a batch; None: all rows in one batch.

        Returns: the folder of the files, and the result of each task.
        """
        folder = f"{self.folder}/{next(self._numbers):03d}"
        tasks = [
            Task(self.storage, source, part, chain, folder, buckets, bucket_of)
            for part in range(source.parts)
        ]
        return folder, list(self.run(what, tasks))


class StoredTables:
    """Implements `ray_pipeline.core.tables.Tables` with files on storage.

    Args:
        executor: runs the steps.
        source: the stored parts.
        chain: functions that are applied to each part when it is needed.
    """

    def __init__(
        self, executor: StepExecutor, source: Source, chain: tuple[_Step, ...] = ()
    ) -> None:
        self._executor = executor
        self._source = source
        self._chain = chain

    @property
    def num_rows(self) -> int:
        """See `Tables.num_rows`. Computes the table."""
        return self._saved().rows

    def saved(self) -> StoredTables:
        """See `Tables.saved`."""
        self._saved()
        return self

    def map(self, work: Work) -> StoredTables:
        """See `Tables.map`."""
        return StoredTables(self._executor, self._source, (*self._chain, _Step(work)))

    def map_with(self, small: StoredTables, work: WorkWith) -> StoredTables:
        """See `Tables.map_with`."""
        step = _Step(work, partial(_all_parts, small._saved()))
        return StoredTables(self._executor, self._source, (*self._chain, step))

    def also(self, other: StoredTables) -> StoredTables:
        """See `Tables.also`."""
        return StoredTables(self._executor, Union(self._saved(), other._saved()))

    def group(
        self, by: Sequence[str], work: Work, *, order: Sequence[str] = (), fan_out: float = 1
    ) -> StoredTables:
        """See `Tables.group`."""
        rows = int(self._source.rows * fan_out)
        parts = 1 if rows <= _ONE_PART_ROWS else max(_LEAST_PARTS, -(-rows // PART_ROWS))
        buckets = self._shuffled("group", partial(_by_key, by[0], parts), parts, (*by, *order))
        return StoredTables(self._executor, buckets, (_Step(work),))

    def meet(self, home: StoredTables, on: str, work: WorkWith) -> StoredTables:
        """See `Tables.meet`."""
        first_units = self._executor.first_units
        buckets = self._shuffled("meet", partial(_by_chunk, on, first_units), len(first_units))
        return StoredTables(self._executor, buckets, (_Step(work, home._saved().load),))

    def by_chunk(self) -> StoredTables:
        """The rows in one part for each chunk of units, sorted by the row that they refer to."""
        first_units = self._executor.first_units
        buckets = self._shuffled(
            "apply", partial(_by_chunk, REF, first_units), len(first_units), (REF,)
        )
        return StoredTables(self._executor, buckets)

    def _shuffled(
        self,
        what: str,
        bucket_of: BucketOf,
        parts: int,
        sort_by: tuple[str, ...] = (),
    ) -> Buckets:
        folder, written = self._executor.execute(what, self._source, self._chain, parts, bucket_of)
        rows = sum(part.rows for part in written)
        return Buckets(folder, len(written), parts, rows, sort_by)

    def _saved(self) -> Saved:
        if not isinstance(self._source, Saved) or self._chain:
            folder, written = self._executor.execute("save", self._source, self._chain)
            rows = sum(part.rows for part in written)
            self._source, self._chain = Saved(folder, len(written), rows), ()
        return self._source
