"""Exports rows as CSV, JSONL, Parquet and Hugging Face data sets, under ``exports/``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.json_values import holds_json, json_columns, json_text, plain_text
from ray_pipeline.core.rows import kept
from ray_pipeline.core.storage import Storage
from ray_pipeline.engine.segments import Segment
from ray_pipeline.rundir.layout import EXPORTS, part_path
from ray_pipeline.rundir.parts import read_rows

_SUFFIX = {"csv": ".csv", "jsonl": ".jsonl", "parquet": ".parquet", "hf": ""}


def export_stages(storage: Storage, segment: Segment, unit_ids: Sequence[str]) -> None:
    """Write the export files that the stages of a finished segment declare.

    One unit is in memory at a time.
    """
    for stage in segment.stages:
        for name, choose in stage.exports().items():
            rows = _rows(storage, segment, unit_ids, choose)
            tables = (_without(table, stage.internal) for table in rows)
            _WRITERS[Path(name).suffix[1:]](storage, f"{EXPORTS}/{name}", tables)


def export_dataset(
    storage: Storage,
    segment: Segment,
    unit_ids: Sequence[str],
    name: str,
    formats: Sequence[str],
    without: Collection[str] = (),
) -> None:
    """Write the rows that every stage kept.

    Args:
        storage: the run directory.
        segment: the last segment that has rows.
        unit_ids: all units.
        name: name of the files, without suffix.
        formats: ``csv``, ``jsonl``, ``parquet`` and ``hf``.
        without: internal columns to leave out.

    Raises:
        RunError: ``hf`` on object storage, or storage failed.
    """
    for kind in formats:
        tables = (_without(t, without) for t in _rows(storage, segment, unit_ids, kept))
        _WRITERS[kind](storage, f"{EXPORTS}/{name}{_SUFFIX[kind]}", tables)


def _without(table: pa.Table, names: Collection[str]) -> pa.Table:
    return table.drop_columns([name for name in names if name in table.column_names])


def _rows(
    storage: Storage,
    segment: Segment,
    unit_ids: Sequence[str],
    choose: Callable[[pa.Table], pa.Table],
) -> Iterator[pa.Table]:
    for unit_id in unit_ids:
        yield choose(read_rows(storage, part_path(segment.folder, unit_id)))


def _write_csv(storage: Storage, path: str, tables: Iterable[pa.Table]) -> None:
    writer = None
    with storage.writer(path) as file:
        for table in tables:
            flat = _flat(table)
            writer = writer or pacsv.CSVWriter(file, flat.schema)
            writer.write_table(flat)
        if writer is not None:
            writer.close()


def _flat(table: pa.Table) -> pa.Table:
    """The table with nested columns as JSON text, because CSV cannot hold them."""
    table = _plain(table)
    for index, field in enumerate(table.schema):
        if pa.types.is_nested(field.type):
            values = table.column(index).to_pylist()
            text = [None if value is None else orjson.dumps(value).decode() for value in values]
            table = table.set_column(index, field.name, pa.array(text, pa.string()))
    return table


def _plain(table: pa.Table) -> pa.Table:
    """The table with columns of JSON values as text: a text is itself, other values are JSON."""
    for index, field in enumerate(table.schema):
        if holds_json(field):
            values = table.column(index).to_pylist()
            text = [None if value is None else plain_text(value) for value in values]
            table = table.set_column(index, field.name, pa.array(text, pa.string()))
    return table


def _json_rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows, with the values of columns of JSON values as the source writes them."""
    names = json_columns(table.schema)
    for row in table.to_pylist():
        for name in names:
            if row[name] is not None:
                row[name] = orjson.Fragment(json_text(row[name]))
        yield row


def _write_jsonl(storage: Storage, path: str, tables: Iterable[pa.Table]) -> None:
    options = orjson.OPT_APPEND_NEWLINE
    with storage.writer(path) as file:
        for table in tables:
            file.write(b"".join(orjson.dumps(row, str, options) for row in _json_rows(table)))


def _write_parquet(storage: Storage, path: str, tables: Iterable[pa.Table]) -> None:
    writer = None
    with storage.writer(path) as file:
        for table in map(_plain, tables):
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table)
        if writer is not None:
            writer.close()


def _write_hf(storage: Storage, path: str, tables: Iterable[pa.Table]) -> None:
    """Write a folder for ``datasets.load_from_disk``."""
    import datasets

    if not storage.is_local:
        raise RunError("export.formats: hf needs a local run_dir; use parquet on object storage")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Storage(folder)
        _write_parquet(scratch, "rows.parquet", tables)
        dataset = datasets.Dataset.from_parquet(f"{folder}/rows.parquet", cache_dir=folder)
        dataset.save_to_disk(str(storage.local_path(path)))


_WRITERS: dict[str, Callable[[Storage, str, Iterable[pa.Table]], None]] = {
    "csv": _write_csv,
    "jsonl": _write_jsonl,
    "parquet": _write_parquet,
    "hf": _write_hf,
}
