"""The survey: one look at the whole source before a run, which cuts it into units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import pyarrow as pa

from ray_pipeline.core.errors import UserError
from ray_pipeline.rundir.units import Unit, default_unit_rows, unit_id
from ray_pipeline.sources import parquet as parquet_format
from ray_pipeline.sources import staging
from ray_pipeline.sources.columns import RAW_COLUMN, common_type
from ray_pipeline.sources.config import SourceConfig
from ray_pipeline.sources.files import SourceFile, open_binary, size_of
from ray_pipeline.sources.find import find_files
from ray_pipeline.sources.inspect import FileFacts, Wanted, inspect_file, known_encoding
from ray_pipeline.sources.read import FileSpec, ReadSpec

#: A row group of so many units is read by each of them; a larger one is worth a staged copy.
_GROUP_UNITS = 4


@dataclass(frozen=True)
class Survey:
    """A source, cut into units. Can be pickled."""

    #: In the order of the files (by URI) and of their rows.
    units: list[Unit]
    #: Data columns by the pipeline's names, without the envelope; the same for every unit.
    schema: pa.Schema
    rows: int
    #: Rows that cannot be read as what they should be; `read_unit` marks them failed. Values of
    #: a wrong type are not counted here.
    malformed: int
    #: What `ray_pipeline.sources.read.read_unit` needs.
    spec: ReadSpec
    #: What was found in each file; ``{facts.key: facts}`` is a later survey's ``cache``.
    files: list[FileFacts]


def survey(
    config: SourceConfig,
    required: Mapping[str, pa.DataType],
    unit_rows: int | None,
    scratch: str,
    cache: Mapping[str, FileFacts] = MappingProxyType({}),
    hints: Mapping[str, str] = MappingProxyType({}),
) -> Survey:
    """Read every file of the source once: content, columns, rows, where units begin.

    Args:
        config: the source.
        required: pipeline's names and types of the columns that must be there.
        unit_rows: rows of a unit; None: 512, times a power of two for large sources, so that
            there are some 10,000 units at most.
        scratch: folder URI for copies of files that cannot be entered in the middle.
        cache: facts of an earlier survey by their key: files with the same content are hashed,
            and not parsed again.
        hints: what to say of a required column that is missing, by its name.

    Raises:
        UserError: anything about the source that is wrong as a whole, before any work: a file
            that is missing or not what its name says, a column that is missing, no rows.
        RunError: ``scratch`` cannot be written.
    """
    wanted = Wanted(config, required, unit_rows, scratch, known_encoding(config.encoding), hints)
    files, facts = _inspect_all(config, wanted, cache)
    rows = sum(one.rows for one in facts)
    if not rows:
        raise UserError(f"source {config.path}: no rows in it: expected at least one")
    schema, as_json = _schema(files, facts, required)
    size = unit_rows or default_unit_rows([one.rows for one in facts])
    seen: Counter[str] = Counter()
    units: list[Unit] = []
    specs: dict[str, FileSpec] = {}
    for file, one in zip(files, facts, strict=True):
        # Two files with the same content are different rows.
        file_id = f"{one.content}.{seen[one.content]}"
        seen[one.content] += 1
        entered = _with_small_groups(file, one, size, scratch)
        units += _cut(file_id, entered, size)
        specs[file_id] = FileSpec(file.uri, entered.size, one.chosen, one.encoding, one.dialect)
    spec = ReadSpec(schema, frozenset(required), as_json, specs)
    return Survey(units, schema, rows, sum(one.malformed for one in facts), spec, facts)


def _inspect_all(
    config: SourceConfig, wanted: Wanted, cache: Mapping[str, FileFacts]
) -> tuple[list[SourceFile], list[FileFacts]]:
    """The files up to the limit, and what is in them (never more rows than the limit)."""
    files, facts = [], []
    left = config.limit
    for file in find_files(config, wanted.scratch):
        if left == 0:
            break
        one = inspect_file(file, wanted, left, cache)
        if left is not None:
            one = replace(one, rows=min(one.rows, left))
            left -= one.rows
        files.append(file)
        facts.append(one)
    return files, facts


def _schema(
    files: list[SourceFile], facts: list[FileFacts], required: Mapping[str, pa.DataType]
) -> tuple[pa.Schema, frozenset[str]]:
    """The columns of all files, in order of appearance, and which of them hold JSON text."""
    names = dict.fromkeys(name for one in facts for name in one.chosen)
    fields, as_json = [], set()
    for name in names:
        holders = [one.columns[one.chosen[name]] for one in facts if name in one.chosen]
        type = required.get(name) or common_type(holders)
        if type is None:
            as_json.add(name)
        fields.append(pa.field(name, type or pa.string()))
    if any(one.malformed for one in facts):
        if RAW_COLUMN not in names:
            fields.append(pa.field(RAW_COLUMN, pa.string()))
        elif fields[list(names).index(RAW_COLUMN)].type != pa.string():
            origin = next(f.uri for f, one in zip(files, facts, strict=True) if one.malformed)
            raise UserError(
                f"source {origin}: it has malformed rows, whose text goes into the column "
                f"{RAW_COLUMN!r}, but the source has a column of that name that is not text: "
                f"give it another with source.columns: {{raw: {RAW_COLUMN}}}"
            )
    return pa.schema(fields), frozenset(as_json)


def _with_small_groups(file: SourceFile, facts: FileFacts, rows: int, scratch: str) -> FileFacts:
    """The file, or a Parquet copy of it whose row groups are units."""
    table = facts.table
    if table is None:
        return facts
    largest = table.largest_group
    if largest is not None and largest <= rows * _GROUP_UNITS:
        return facts
    batches = parquet_format.batches(facts.uri, file.format)
    uri = staging.stage_groups(batches, table.schema, facts.content, rows, scratch)
    with open_binary(uri) as copy:
        return replace(facts, uri=uri, size=size_of(copy))


def _cut(file_id: str, facts: FileFacts, size: int) -> list[Unit]:
    """The units of one file."""
    firsts = range(0, facts.rows, size)
    format = "csv" if facts.dialect else "jsonl" if facts.marks else "parquet"
    offsets = facts.marks.every(size) if facts.marks else firsts
    units = []
    for first, offset in zip(firsts, offsets, strict=True):
        rows = min(size, facts.rows - first)
        identity = unit_id(file_id, first, rows)
        units.append(Unit(identity, facts.uri, format, file_id, offset, first, rows))
    return units
