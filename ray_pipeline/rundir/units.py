"""Units: fixed ranges of a source's rows, each read, committed and resumed as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import pyarrow as pa
import pyarrow.parquet as pq

from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.checksums import CheckedFile, Damaged, DamagedFile, with_checksums
from ray_pipeline.rundir.layout import UNITS_FILE

#: Rows of a unit of a small source; a power of two times this for larger ones.
DEFAULT_UNIT_ROWS = 512
#: The approximate maximum number of units of a run when ``unit_rows`` is not set.
MOST_UNITS = 10_000


@dataclass(frozen=True)
class Unit:
    """A range of rows of one file: the granularity of work, commit and resume."""

    #: Hash of the file's content identity and the range: the same file gives the same ids.
    unit_id: str
    #: The file to read, possibly a staged copy.
    uri: str
    #: ``csv``, ``jsonl`` or ``parquet``.
    format: str
    #: Content identity of the original file, see `ray_pipeline.core.rows.source_row_id`.
    file_id: str
    #: Where to enter the file: a byte offset (csv, jsonl), a row (parquet).
    offset: int
    #: Position of the unit's first row in its file, from 0.
    first_row: int
    rows: int
    #: Name of the source that the file belongs to; empty where the run's source has no name.
    source: str = ""


def unit_id(file_id: str, first_row: int, rows: int) -> str:
    """Identity of the ``rows`` rows from ``first_row`` on of the file ``file_id``."""
    return hashlib.blake2b(f"{file_id}:{first_row}+{rows}".encode(), digest_size=16).hexdigest()


def default_unit_rows(rows_of_files: Sequence[int]) -> int:
    """Rows per unit for a source: 512 times a power of two, for about 10,000 units at most."""
    size = DEFAULT_UNIT_ROWS
    largest = max(rows_of_files, default=0)
    while size < largest and sum(-(-rows // size) for rows in rows_of_files) > MOST_UNITS:
        size *= 2
    return size


class Marks:
    """Byte offsets of every ``step``-th record of a file, recorded while the file is read once.

    When the step may grow (``unit_rows`` is not set), at most 20,000 offsets are kept, however
    large the file is: `default_unit_rows` never needs a finer step than the one that remains.
    """

    def __init__(self, step: int, may_grow: bool) -> None:
        self.step = step
        self.offsets: list[int] = []
        self._may_grow = may_grow

    def add(self, offset: int) -> None:
        """Record the byte where record number ``len(offsets) * step`` starts."""
        self.offsets.append(offset)
        if self._may_grow and len(self.offsets) > 2 * MOST_UNITS:
            self.offsets = self.offsets[::2]
            self.step *= 2

    def every(self, rows: int) -> list[int]:
        """Offsets of the records 0, ``rows``, 2 x ``rows``, ...

        ``rows`` must be a multiple of the step.
        """
        return self.offsets[:: rows // self.step]


# Units as the rows of Ray Data's blocks.


def unit_blocks(units: Sequence[Unit], size: int) -> list[pa.Table]:
    """The units as Arrow tables of ``size`` rows, one for each Ray Data block."""
    table = pa.Table.from_pylist([asdict(unit) for unit in units])
    # Copied, since a slice is pickled together with the buffers of the whole table.
    return [
        pa.Table.from_pylist(table.slice(start, size).to_pylist(), schema=table.schema)
        for start in range(0, len(units), size)
    ]


def units_of(block: pa.Table) -> list[Unit]:
    """The units in a block: the inverse of `unit_blocks`."""
    return [Unit(**row) for row in block.to_pylist()]


# Units in the run directory.


def write_units(storage: Storage, units: Sequence[Unit]) -> None:
    """Write ``units.parquet``."""
    schema = pa.Table.from_pylist([asdict(Unit("", "", "", "", 0, 0, 0))]).schema
    table = pa.Table.from_pylist([asdict(unit) for unit in units], schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    storage.write_bytes(UNITS_FILE, with_checksums(sink.getvalue()))


def read_units(storage: Storage) -> list[Unit]:
    """The units in ``units.parquet``, in the source's order; none where there is no such file.

    Raises:
        DamagedFile: it is not what was written.
    """
    try:
        with storage.open(UNITS_FILE) as file:
            table = CheckedFile(file)
            rows = table.read(table.metadata.schema.to_arrow_schema().names).to_pylist()
    except FileNotFoundError:
        return []
    except Damaged as error:
        raise DamagedFile(
            f"{storage.uri(UNITS_FILE)} is damaged: {error}. Run again: it is written again from "
            "the source",
            str(error),
        ) from error
    names = {field.name for field in fields(Unit)}
    return [Unit(**{name: row[name] for name in names & row.keys()}) for row in rows]
