"""Exports rows as CSV, JSON, JSONL, Parquet and Hugging Face data sets, under ``exports/``.

A file that cannot be written does not keep the others from being written: each is tried, and what
went wrong is reported at the end. Rows stay in the run, so that a later run can write it.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pyarrow.types as pat

from ray_pipeline.core.arrow_types import json_values
from ray_pipeline.core.durable_files import make_folder, replace_folder
from ray_pipeline.core.errors import RunError, UserError, first_line, in_one_line
from ray_pipeline.core.file_names import same_file
from ray_pipeline.core.json_values import finite_json, holds_json, json_text, plain_text
from ray_pipeline.core.rows import kept
from ray_pipeline.core.spreadsheets import without_formulas
from ray_pipeline.core.storage import Storage
from ray_pipeline.engine.segments import Segment
from ray_pipeline.rundir.checksums import DamagedFile
from ray_pipeline.rundir.layout import EXPORTS, LOG_FILE, part_path
from ray_pipeline.rundir.manifest import differences, files_at, record_files, recorded_files
from ray_pipeline.rundir.parts import read_rows
from ray_pipeline.stage import ArtifactStage, Stage

_log = logging.getLogger("ray_pipeline")

_SUFFIX = {"csv": ".csv", "jsonl": ".jsonl", "parquet": ".parquet", "hf": ""}
_HF_IS_LOCAL = "export.formats: hf needs a local run_dir; use parquet on object storage"


@dataclass
class Exports:
    """What became of the files of a run.

    Attributes:
        for_spreadsheets: whether formulas in CSV files are written as text.
        failed: why a file could not be written, by its path in the run directory.
        notes: what its reader should know about a file, by its path.
        rows_digests: digest of the rows of complete segments, by the segment's folder.
    """

    for_spreadsheets: bool = False
    failed: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    rows_digests: dict[str, str] = field(default_factory=dict)

    @property
    def failure(self) -> str | None:
        """The message of a run whose rows are complete and whose files are not."""
        if not self.failed:
            return None
        listed = "; ".join(f"{path}: {why}" for path, why in self.failed.items())
        return (
            f"the rows are complete, but not every exported file could be written. {listed}. "
            f"{LOG_FILE} has the rest. Run again when that is put right: only the files are "
            "written then, and no request is repeated"
        )

    def write(
        self,
        storage: Storage,
        kind: str,
        path: str,
        tables: Iterable[pa.Table],
        folder: str = "",
    ) -> None:
        """Write a file with rows of a segment's folder, or remember why it could not be written."""
        not_finite: Counter[str] = Counter()
        self.failed.pop(path, None)
        self.notes.pop(path, None)
        try:
            if kind == "csv" and self.for_spreadsheets:
                tables = (without_formulas(_flat(table, not_finite)) for table in tables)
            _WRITERS[kind](storage, path, tables, not_finite)
            digest = self.rows_digests.get(folder, "")
            record_files(storage, files_at(storage, path), rows_digest=digest)
        except (RunError, UserError) as error:
            self._fail(storage, kind, path, str(error))
        except Exception as error:  # of any kind: pyarrow and datasets raise their own
            _log.exception("%s could not be written", path)
            self._fail(storage, kind, path, f"{type(error).__name__}: {first_line(error)}")
        if not_finite and path not in self.failed:
            listed = ", ".join(f"{number} in {name!r}" for name, number in not_finite.items())
            self.notes[path] = f"JSON has no NaN and no infinity, so they are null: {listed}"

    def compare(self, storage: Storage, path: str) -> None:
        """Note it if a file that was written before is not what was written."""
        with contextlib.suppress(DamagedFile):  # the list of files is damaged: `verify` says so
            recorded = recorded_files(storage)
            mine = {path: recorded[path]} if path in recorded else {}
            for _, how in differences(storage, mine):
                self.notes[path] = f"it {how}. Delete it and run again: it is written again"

    def _fail(self, storage: Storage, kind: str, path: str, why: str) -> None:
        self.failed[path] = why
        # That of an earlier run would pass for the one that is missing.
        with contextlib.suppress(RunError):  # the first error is the one to report
            (storage.delete_folder if kind == "hf" else storage.delete)(path)


def export_stages(
    storage: Storage,
    segment: Segment,
    unit_ids: Sequence[str],
    exports: Exports,
    missing_only: bool = False,
) -> None:
    """Write the export files that the stages of a finished segment declare.

    One unit is in memory at a time.

    Args:
        storage: the run directory.
        segment: the segment.
        unit_ids: all units.
        exports: gets what became of the files.
        missing_only: write the files that are not there, as after a failure.
    """
    for stage in segment.stages:
        for name, choose in stage.exports().items():
            path = f"{EXPORTS}/{name}"
            if missing_only and storage.is_file(path):
                # It may be what the user has made of it: it is not written over.
                exports.compare(storage, path)
                continue
            rows = _rows(storage, segment, unit_ids, choose)
            tables = (_without(table, stage.internal) for table in rows)
            exports.write(storage, Path(name).suffix[1:], path, tables, segment.folder)


def export_dataset(
    storage: Storage,
    segment: Segment,
    unit_ids: Sequence[str],
    name: str,
    formats: Sequence[str],
    exports: Exports,
    without: Collection[str] = (),
) -> None:
    """Write the rows that every stage kept.

    Args:
        storage: the run directory.
        segment: the last segment that has rows.
        unit_ids: all units.
        name: name of the files, without suffix.
        formats: ``csv``, ``jsonl``, ``parquet`` and ``hf``.
        exports: gets what became of the files.
        without: internal columns to leave out.
    """
    for kind in formats:
        tables = (_without(t, without) for t in _rows(storage, segment, unit_ids, kept))
        path = f"{EXPORTS}/{name}{_SUFFIX[kind]}"
        exports.write(storage, kind, path, tables, segment.folder)


def check_formats(
    schema: pa.Schema, formats: Sequence[str], stages: Sequence[Stage], is_local: bool
) -> None:
    """Check that the files of a run can hold the source's columns, before anything is paid for.

    Args:
        schema: the columns of the source.
        formats: of the export.
        stages: of the job.
        is_local: whether the run directory is on a local disk.

    Raises:
        UserError: a column has a type that a data set of the hub has no place for and one is to be
            written, or it needs a local run directory.
    """
    if "hf" in formats:
        if not is_local:
            raise UserError(_HF_IS_LOCAL)
        _check_dataset(schema, "export.formats: hf", "take parquet, or ")
    for stage in stages:
        if stage.writes_datasets:
            _check_dataset(schema, f"stages.{stage.name}")


def check_export_names(name: str, formats: Sequence[str], stages: Sequence[Stage]) -> None:
    """Check that no two files of a run would get one name, before anything is paid for.

    Args:
        name: of the exported rows.
        formats: of the exported rows.
        stages: of the job.

    Raises:
        UserError: the rows would be written over a file of a stage, on some system at least.
    """
    of_stages = {
        path.removeprefix(f"{EXPORTS}/").split("/")[0]: stage.name
        for stage in stages
        for path in (*(f"{EXPORTS}/{file}" for file in stage.exports()), *_made_by(stage))
        if path.startswith(f"{EXPORTS}/")
    }
    for kind in dict.fromkeys(formats):
        for file, writer in of_stages.items():
            if same_file([file, own := f"{name}{_SUFFIX[kind]}"]) is not None:
                raise UserError(
                    f"export.name: {own!r} would be written over {file!r} of stages.{writer}: take "
                    "another name"
                )


def _made_by(stage: Stage) -> Sequence[str]:
    return stage.makes if isinstance(stage, ArtifactStage) else ()


def _check_dataset(schema: pa.Schema, where: str, other: str = "") -> None:
    if all(_is_usual(column.type) for column in schema):
        return
    from datasets import Features  # takes seconds to import

    for column in schema:
        try:
            Features.from_arrow_schema(pa.schema([column]))
        except Exception as error:  # of any kind
            raise UserError(
                f"{where}: column {column.name!r} is of type {column.type}, which a Hugging Face "
                f"data set has no place for ({in_one_line(error)}): {other}leave the column out "
                "of the source's file"
            ) from None


def _is_usual(kind: pa.DataType) -> bool:
    """Whether data sets have a place for a type for certain."""
    is_number = pat.is_integer(kind) or pat.is_floating(kind) or pat.is_boolean(kind)
    is_list = pat.is_list(kind) and _is_usual(kind.value_type)
    return bool(is_number or is_list or pat.is_string(kind) or pat.is_null(kind))


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


def _write_csv(
    storage: Storage, path: str, tables: Iterable[pa.Table], not_finite: Counter[str]
) -> None:
    writer = None
    with storage.writer(path) as file:
        for table in tables:
            flat = _flat(table, not_finite)
            writer = writer or pacsv.CSVWriter(file, flat.schema)
            writer.write_table(flat)
        if writer is not None:
            writer.close()


def _flat(table: pa.Table, not_finite: Counter[str]) -> pa.Table:
    """The table with text in place of what CSV cannot hold: JSON for nested values.

    It depends on a column's type alone, because all units of a file need the same columns.
    """
    table = _plain(table)
    for index, column in enumerate(table.schema):
        if _is_csv(column.type):
            continue
        values = _as_json(table, column.name, not_finite)
        if pat.is_nested(column.type) or isinstance(column.type, pa.BaseExtensionType):
            values = [_text(value) for value in values]
        text = pa.array(values, pa.string())
        if pat.is_temporal(column.type) and not pat.is_duration(column.type):
            # Arrow's own words, but for years that it has none for.
            arrow = table.column(index).cast(pa.string()).combine_chunks()
            text = pc.if_else(pc.starts_with(arrow, "<"), text, arrow)
        table = table.set_column(index, column.name, text)
    return table


def _plain(table: pa.Table) -> pa.Table:
    """The table with columns of JSON values as text: a text is itself, other values are JSON."""
    for index, column in enumerate(table.schema):
        if holds_json(column):
            values = table.column(index).to_pylist()
            text = [None if value is None else plain_text(value) for value in values]
            table = table.set_column(index, column.name, pa.array(text, pa.string()))
    return table


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return orjson.dumps(value).decode()


def _is_csv(kind: pa.DataType) -> bool:
    """Whether Arrow writes values of a type to CSV as they are."""
    is_number = pat.is_primitive(kind) and not pat.is_temporal(kind)
    return bool(is_number or pat.is_decimal(kind) or _is_plain_text(kind))


def _is_plain_text(kind: pa.DataType) -> bool:
    return bool(pat.is_string(kind) or pat.is_large_string(kind) or pat.is_null(kind))


def _as_json(table: pa.Table, name: str, not_finite: Counter[str]) -> list[object]:
    """A column's values for `orjson`."""
    column, lost = table[name], Counter[str]()
    if holds_json(table.schema.field(name)):
        # As the source writes them: a number keeps all its digits.
        written = [None if v is None else finite_json(json_text(v)) for v in column.to_pylist()]
        if count := sum(value[1] for value in written if value is not None):
            not_finite[name] += count
        return [None if value is None else orjson.Fragment(value[0]) for value in written]
    try:
        values = json_values(column, lost)
    except Exception as error:  # of any kind
        raise RunError(f"column {name!r} of type {column.type}: {in_one_line(error)}") from error
    if lost:
        not_finite[name] += lost.total()
    return values


def _write_jsonl(
    storage: Storage, path: str, tables: Iterable[pa.Table], not_finite: Counter[str]
) -> None:
    options = orjson.OPT_APPEND_NEWLINE
    with storage.writer(path) as file:
        for table in tables:
            names = table.column_names
            columns = [_as_json(table, name, not_finite) for name in names]
            rows = (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))
            file.write(b"".join(orjson.dumps(row, option=options) for row in rows))


def _write_json(
    storage: Storage, path: str, tables: Iterable[pa.Table], not_finite: Counter[str]
) -> None:
    """Write one array with an object for each row."""
    with storage.writer(path) as file:
        before = b"["
        for table in tables:
            names = table.column_names
            columns = [_as_json(table, name, not_finite) for name in names]
            for row in zip(*columns, strict=True):
                file.write(before + b"\n" + orjson.dumps(dict(zip(names, row, strict=True))))
                before = b","
        file.write(b"[]\n" if before == b"[" else b"\n]\n")


def _write_parquet(
    storage: Storage, path: str, tables: Iterable[pa.Table], not_finite: Counter[str]
) -> None:
    del not_finite  # Parquet holds them
    writer = None
    with storage.writer(path) as file:
        for table in map(_plain, tables):
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table)
        if writer is not None:
            writer.close()


def _write_hf(
    storage: Storage, path: str, tables: Iterable[pa.Table], not_finite: Counter[str]
) -> None:
    """Write a folder for ``datasets.load_from_disk``."""
    import datasets

    if not storage.is_local:
        raise RunError(_HF_IS_LOCAL)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Storage(folder)
        _write_parquet(scratch, "rows.parquet", tables, not_finite)
        dataset = datasets.Dataset.from_parquet(f"{folder}/rows.parquet", cache_dir=folder)
        final = storage.local_path(path)
        made = final.with_name(f".{final.name}.{uuid.uuid4().hex}.tmp")
        try:
            make_folder(final.parent)
            dataset.save_to_disk(str(made))
            replace_folder(made, final)
        except OSError as error:
            raise RunError(f"cannot write {storage.uri(path)}: {error}") from error
        finally:
            shutil.rmtree(made, ignore_errors=True)


_WRITERS: dict[str, Callable[[Storage, str, Iterable[pa.Table], Counter[str]], None]] = {
    "csv": _write_csv,
    "json": _write_json,
    "jsonl": _write_jsonl,
    "parquet": _write_parquet,
    "hf": _write_hf,
}
