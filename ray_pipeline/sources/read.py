"""Reading a unit: its rows as an Arrow table, with identities and the malformed ones marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, BinaryIO

import pyarrow as pa

from ray_pipeline.core import rows as envelope
from ray_pipeline.core.errors import RunError
from ray_pipeline.rundir.units import Unit
from ray_pipeline.sources import csv as csv_format
from ray_pipeline.sources import json as json_format
from ray_pipeline.sources import parquet as parquet_format
from ray_pipeline.sources.cells import as_json, typed_column
from ray_pipeline.sources.columns import RAW_COLUMN
from ray_pipeline.sources.files import UNIT_BUFFER, open_binary, size_of

#: Name of the source where rows that could not be read are marked.
SOURCE_STAGE = "source"


@dataclass(frozen=True)
class FileSpec:
    """How to read one file."""

    #: The original, for messages.
    origin: str
    #: Bytes of the file that is read: another size means that it is not the one surveyed.
    size: int
    #: Pipeline's names of its columns -> its own.
    columns: dict[str, str]
    encoding: str = "utf-8"
    #: CSV only.
    dialect: csv_format.Dialect | None = None


@dataclass(frozen=True)
class ReadSpec:
    """What `read_unit` needs besides the unit; can be pickled."""

    #: Data columns, the same for all units of the source.
    schema: pa.Schema
    #: Those whose type the stages ask for: other values fail their row.
    required: frozenset[str]
    #: Those that hold JSON text, because their values have no common type.
    as_json: frozenset[str]
    #: By ``file_id``.
    files: dict[str, FileSpec]


@dataclass
class _Cells:
    """The rows of a unit in the file's own columns, and what is wrong with which."""

    #: The file's name -> values.
    columns: dict[str, Sequence[Any] | pa.ChunkedArray]
    rows: int
    #: Row in the unit -> reason.
    faults: dict[int, str] = field(default_factory=dict)
    #: Row in the unit -> raw text.
    raw: dict[int, str] = field(default_factory=dict)


def read_unit(unit: Unit, spec: ReadSpec) -> pa.Table:
    """Read the rows of a unit.

    Args:
        unit: from `ray_pipeline.sources.survey.survey`.
        spec: of the same survey.

    Returns: ``unit.rows`` rows, the columns of ``spec.schema`` and the envelope. Malformed rows
        are ``failed`` in the stage ``source`` and hold what could be read.

    Raises:
        RunError: the file is gone, cannot be read, or is not the one that was surveyed.
    """
    file = spec.files[unit.file_id]
    try:
        cells = _READERS[unit.format](unit, file)
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"source {file.origin}: cannot be read any more: {error}") from error
    if cells.rows != unit.rows:
        raise _changed(file, f"{cells.rows} rows where there were {unit.rows}")
    columns = [_column(cells, name, file, spec) for name in spec.schema.names]
    data = pa.Table.from_arrays(columns, schema=spec.schema)
    positions = range(unit.first_row, unit.first_row + unit.rows)
    ids = [envelope.source_row_id(unit.file_id, position) for position in positions]
    table = envelope.with_envelope(data, ids)
    return _mark_failed(table, cells.faults) if cells.faults else table


def _changed(file: FileSpec, found: str) -> RunError:
    return RunError(
        f"source {file.origin}: changed since the run began: found {found}. Start the run again: "
        "what it did on unchanged files is kept"
    )


def _opened(unit: Unit, file: FileSpec) -> BinaryIO:
    stream = open_binary(unit.uri, UNIT_BUFFER)
    size = size_of(stream)
    if size != file.size:
        stream.close()
        raise _changed(file, f"{size} bytes where there were {file.size}")
    stream.seek(unit.offset)
    return stream


def _read_csv(unit: Unit, file: FileSpec) -> _Cells:
    assert file.dialect is not None
    with _opened(unit, file) as stream:
        records = list(islice(csv_format.records(stream, file.dialect, unit.offset), unit.rows))
    values = zip(*(record.cells for record in records), strict=True)
    return _with_faults(dict(zip(file.dialect.header, values, strict=True)), records)


def _read_jsonl(unit: Unit, file: FileSpec) -> _Cells:
    with _opened(unit, file) as stream:
        records = list(islice(json_format.records(stream, file.encoding, unit.offset), unit.rows))
    columns = {
        own: [record.cells.get(own) for record in records] for own in set(file.columns.values())
    }
    return _with_faults(columns, records)


def _with_faults(
    columns: dict[str, Any], records: Sequence[csv_format.Record | json_format.Record]
) -> _Cells:
    cells = _Cells(columns, len(records))
    for row, record in enumerate(records):
        if record.fault is not None:
            cells.faults[row] = record.fault
            cells.raw[row] = record.raw or ""
    return cells


def _read_parquet(unit: Unit, file: FileSpec) -> _Cells:
    names = list(dict.fromkeys(file.columns.values()))
    table = parquet_format.read_range(unit.uri, file.size, unit.offset, unit.rows, names)
    return _Cells({name: table[name] for name in names}, table.num_rows)


_READERS = {"csv": _read_csv, "jsonl": _read_jsonl, "parquet": _read_parquet}


def _column(cells: _Cells, name: str, file: FileSpec, spec: ReadSpec) -> Any:
    """One column of the result; wrong values of a required one are added to the faults."""
    expected = spec.schema.field(name).type
    own = file.columns.get(name)
    if name == RAW_COLUMN and cells.raw:
        kept = cells.columns[own] if own else [None] * cells.rows
        return pa.array([cells.raw.get(row, kept[row]) for row in range(cells.rows)], expected)
    if own is None:
        return pa.nulls(cells.rows, expected)
    values = cells.columns[own]
    if name in spec.as_json:
        return pa.array(map(as_json, _python(values)), expected, size=cells.rows)
    if isinstance(values, pa.ChunkedArray):
        # Not safe: integers beyond 2**53 lose digits when another file of the source has doubles.
        return values if values.type.equals(expected) else values.cast(expected, safe=False)
    if name not in spec.required:
        return pa.array(values, expected)
    column, problems = typed_column(values, expected, from_text=file.dialect is not None)
    for row, problem in problems.items():
        cells.faults.setdefault(row, f"source:type: column {name!r}: {problem}")
    return column


def _python(values: Sequence[Any] | pa.ChunkedArray) -> Iterator[Any]:
    return iter(values.to_pylist() if isinstance(values, pa.ChunkedArray) else values)


def _mark_failed(table: pa.Table, faults: dict[int, str]) -> pa.Table:
    reasons = pa.array([faults.get(row) for row in range(table.num_rows)], pa.string())
    mask, schema = reasons.is_valid(), table.schema
    table = envelope.fail(table, mask, reasons)
    stages = [SOURCE_STAGE if row in faults else None for row in range(table.num_rows)]
    marked = envelope.set_column(table, "stage", pa.array(stages, pa.string()))
    # Replaced columns count as nullable; all units must have the same schema.
    return pa.Table.from_arrays(marked.columns, schema=schema)
