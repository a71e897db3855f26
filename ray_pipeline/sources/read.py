"""Reads a unit: its rows as an Arrow table with row ids, malformed rows marked as failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ray_pipeline.core import rows as envelope
from ray_pipeline.core.arrow_types import as_plain
from ray_pipeline.core.errors import RunError
from ray_pipeline.rundir.layout import SOURCE, SOURCE_NAME
from ray_pipeline.rundir.units import Unit
from ray_pipeline.sources.columns import RAW_COLUMN, json_value, typed_column
from ray_pipeline.sources.format import Cells, FileSpec


@dataclass(frozen=True)
class ReadSpec:
    """What `read_unit` needs besides the unit; can be pickled."""

    #: Data columns, the same for all units of the source.
    schema: pa.Schema
    #: Columns whose type the stages require: a value of another type fails its row.
    required: frozenset[str]
    #: Columns of JSON values, because these have no common type that holds them exactly.
    as_json: frozenset[str]
    #: How to read each file, by its ``file_id``.
    files: dict[str, FileSpec]


def read_unit(unit: Unit, spec: ReadSpec) -> pa.Table:
    """Read the rows of a unit.

    Args:
        unit: a unit of a `ray_pipeline.sources.survey.Survey`.
        spec: of the same survey.

    Returns: ``unit.rows`` rows with the columns of ``spec.schema`` and the envelope. Malformed
        rows are ``failed`` in the stage ``source``, with the values that could be read.

    Raises:
        RunError: the file is gone, cannot be read, or is not the one that was surveyed.
    """
    file = spec.files[unit.file_id]
    try:
        cells = file.format.read(unit, file)
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"source {file.origin}: cannot be read any more: {error}") from error
    if cells.rows != unit.rows:
        raise file.changed(f"{cells.rows} rows where there were {unit.rows}")
    columns = [
        pa.array([unit.source] * unit.rows, pa.string())
        if unit.source and name == SOURCE_NAME
        else _column(cells, name, file, spec)
        for name in spec.schema.names
    ]
    data = pa.Table.from_arrays(columns, schema=spec.schema)
    positions = range(unit.first_row, unit.first_row + unit.rows)
    ids = [envelope.source_row_id(unit.file_id, position) for position in positions]
    table = envelope.with_envelope(data, ids)
    return _mark_failed(table, cells.faults) if cells.faults else table


def _column(cells: Cells, name: str, file: FileSpec, spec: ReadSpec) -> Any:
    """One column of the result; values of a wrong type in a required one are added to faults."""
    expected = spec.schema.field(name).type
    own = file.columns.get(name)
    if name == RAW_COLUMN and cells.raw:
        kept = cells.columns[own] if own else [None] * cells.rows
        return pa.array([cells.raw.get(row, kept[row]) for row in range(cells.rows)], expected)
    if own is None:
        return pa.nulls(cells.rows, expected)
    values = cells.columns[own]
    if name in spec.as_json:
        return pa.array(map(json_value, _python(values)), expected, size=cells.rows)
    if isinstance(values, pa.ChunkedArray):
        values = as_plain(values)
        # Where files have integers and doubles, the survey chose doubles only if they are exact.
        return values if values.type.equals(expected) else values.cast(expected, safe=False)
    if name not in spec.required:
        return pa.array(values, expected)
    column, problems = typed_column(
        values, expected, file.format.values_are_text, file.nested_as_json
    )
    for row, problem in problems.items():
        cells.faults.setdefault(row, f"source:type: column {name!r}: {problem}")
    return column


def _python(values: Sequence[Any] | pa.ChunkedArray) -> Iterator[Any]:
    return iter(values.to_pylist() if isinstance(values, pa.ChunkedArray) else values)


def _mark_failed(table: pa.Table, faults: dict[int, str]) -> pa.Table:
    reasons = pa.array([faults.get(row) for row in range(table.num_rows)], pa.string())
    return envelope.fail(table, reasons.is_valid(), reasons, SOURCE)
