"""The survey: one look at the whole source before a run, which cuts it into units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import pyarrow as pa

from ray_pipeline.core.errors import UserError
from ray_pipeline.rundir.units import Unit, default_unit_rows, unit_id
from ray_pipeline.sources.columns import RAW_COLUMN, common_type
from ray_pipeline.sources.config import SourceConfig
from ray_pipeline.sources.files import readable
from ray_pipeline.sources.find import find_files
from ray_pipeline.sources.format import FileFacts, FileSpec, ScanOptions, SourceFile
from ray_pipeline.sources.read import ReadSpec
from ray_pipeline.sources.text import known_encoding


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


def survey(
    config: SourceConfig,
    required: Mapping[str, pa.DataType],
    unit_rows: int | None,
    scratch: str,
    hints: Mapping[str, str] = MappingProxyType({}),
) -> Survey:
    """Read every file of the source once: content, columns, rows, where units begin.

    Args:
        config: the source.
        required: pipeline's names and types of the columns that must be there.
        unit_rows: rows of a unit; None: 512, times a power of two for large sources, so that
            there are some 10,000 units at most.
        scratch: folder URI for copies of files that cannot be entered in the middle.
        hints: what to say of a required column that is missing, by its name.

    Raises:
        UserError: anything about the source that is wrong as a whole, before any work: a file
            that is missing or not what its name says, a column that is missing, no rows.
        RunError: ``scratch`` cannot be written.
    """
    encoding = known_encoding(config.encoding)
    options = ScanOptions(config, required, unit_rows, scratch, encoding, hints)
    files = _scan_all(config, options)
    facts = [of_file for _, of_file in files]
    rows = sum(of_file.rows for of_file in facts)
    if not rows:
        raise UserError(f"source {config.path}: no rows in it: expected at least one")
    schema, as_json = _schema(files, required)
    size = unit_rows or default_unit_rows([of_file.rows for of_file in facts])
    copies: Counter[str] = Counter()
    units: list[Unit] = []
    specs: dict[str, FileSpec] = {}
    for file, of_file in files:
        # Two files with the same content are different rows.
        file_id = f"{of_file.content}.{copies[of_file.content]}"
        copies[of_file.content] += 1
        entered = file.format.make_seekable(of_file, size, scratch)
        units += _cut(file_id, file, entered, size)
        specs[file_id] = FileSpec(
            file.uri, file.format, entered.size, entered.chosen, entered.layout
        )
    spec = ReadSpec(schema, frozenset(required), as_json, specs)
    return Survey(units, schema, rows, sum(of_file.malformed for of_file in facts), spec)


def _scan_all(config: SourceConfig, options: ScanOptions) -> list[tuple[SourceFile, FileFacts]]:
    """The files up to the limit, and what is in them (never more rows than the limit)."""
    scanned = []
    left = config.limit
    for file in find_files(config, options.scratch):
        if left == 0:
            break
        with readable(file.uri):
            facts = file.format.scan(file, options, left)
        if left is not None:
            facts = replace(facts, rows=min(facts.rows, left))
            left -= facts.rows
        scanned.append((file, facts))
    return scanned


def _schema(
    files: list[tuple[SourceFile, FileFacts]], required: Mapping[str, pa.DataType]
) -> tuple[pa.Schema, frozenset[str]]:
    """The columns of all files, in order of appearance, and which of them hold JSON text."""
    names = dict.fromkeys(name for _, facts in files for name in facts.chosen)
    fields, as_json = [], set()
    for name in names:
        holders = [facts.columns[facts.chosen[name]] for _, facts in files if name in facts.chosen]
        type = required.get(name) or common_type(holders)
        if type is None:
            as_json.add(name)
        fields.append(pa.field(name, type or pa.string()))
    if any(facts.malformed for _, facts in files):
        if RAW_COLUMN not in names:
            fields.append(pa.field(RAW_COLUMN, pa.string()))
        elif fields[list(names).index(RAW_COLUMN)].type != pa.string():
            origin = next(file.uri for file, facts in files if facts.malformed)
            raise UserError(
                f"source {origin}: it has malformed rows, whose text goes into the column "
                f"{RAW_COLUMN!r}, but the source has a column of that name that is not text: "
                f"give it another with source.columns: {{raw: {RAW_COLUMN}}}"
            )
    return pa.schema(fields), frozenset(as_json)


def _cut(file_id: str, file: SourceFile, facts: FileFacts, size: int) -> list[Unit]:
    """The units of one file."""
    units = []
    firsts = range(0, facts.rows, size)
    for first, offset in zip(firsts, facts.offsets(size), strict=True):
        rows = min(size, facts.rows - first)
        identity = unit_id(file_id, first, rows)
        units.append(Unit(identity, facts.uri, file.format.name, file_id, offset, first, rows))
    return units
