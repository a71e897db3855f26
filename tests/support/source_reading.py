"""What the tests of sources share: survey and read all units, in a few words."""

from __future__ import annotations

import csv
import io
import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ray_pipeline.sources.config import SourceConfig
from ray_pipeline.sources.read import read_unit
from ray_pipeline.sources.survey import Survey, survey

TEXT = pa.string()


def look(
    path: Any,
    scratch: Path | str,
    required: Mapping[str, pa.DataType] | None = None,
    unit_rows: int | None = None,
    **config: Any,
) -> Survey:
    path = [str(one) for one in path] if isinstance(path, list) else str(path)
    source = SourceConfig(path=path, **config)
    return survey(source, required or {}, unit_rows, str(scratch))


def read_all(found: Survey) -> pa.Table:
    # Units and the specification travel to workers.
    units, spec = pickle.loads(pickle.dumps((found.units, found.spec)))
    tables = [read_unit(unit, spec) for unit in units]
    assert all(table.num_rows == unit.rows for table, unit in zip(tables, units, strict=True))
    table = pa.concat_tables(tables)  # raises when the units' schemas differ
    table.validate(full=True)
    assert table.num_rows == found.rows
    assert table.schema.names[: len(found.schema)] == found.schema.names
    return table


def rows_of(table: pa.Table, *names: str) -> list[tuple[Any, ...]]:
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


def write_csv(
    path: Path,
    rows: Iterable[Sequence[str]],
    header: Sequence[str] = ("question", "answer"),
    delimiter: str = ",",
    encoding: str = "utf-8",
) -> Path:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(header)
    writer.writerows(rows)
    path.write_bytes(text.getvalue().encode(encoding))
    return path
