"""The survey: one look at all sources before a run, which cuts them into units."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import pyarrow as pa

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.rows import ENVELOPE_COLUMNS
from ray_pipeline.rundir.layout import SOURCE_NAME
from ray_pipeline.rundir.units import Unit, default_unit_rows, unit_id
from ray_pipeline.sources.columns import (
    RAW_COLUMN,
    Column,
    common_type,
    may_be,
    type_name,
)
from ray_pipeline.sources.config import SourceConfig
from ray_pipeline.sources.files import readable
from ray_pipeline.sources.find import find_files
from ray_pipeline.sources.format import FileFacts, FileSpec, ScanOptions, SourceFile
from ray_pipeline.sources.read import ReadSpec
from ray_pipeline.sources.text import known_encoding


@dataclass(frozen=True)
class Wanted:
    """A source to be surveyed."""

    config: SourceConfig
    #: The pipeline's names and types of the columns that must be there.
    required: Mapping[str, pa.DataType] = field(default_factory=dict)
    #: What to add to the message about a required column that is missing, by its name.
    hints: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Survey:
    """All sources, cut into units. Can be pickled."""

    #: In the order of the sources, of their files (by URI) and of the rows in these.
    units: list[Unit]
    #: Data columns by the pipeline's names, without the envelope; the same for every unit.
    schema: pa.Schema
    rows: int
    #: Rows that cannot be read as what they should be; `read_unit` marks them failed. Values of
    #: a wrong type are not counted here.
    malformed: int
    #: What `ray_pipeline.sources.read.read_unit` needs.
    spec: ReadSpec

    @property
    def rows_by_source(self) -> dict[str, int]:
        """Rows of each source, by its name."""
        rows: Counter[str] = Counter()
        for unit in self.units:
            rows[unit.source] += unit.rows
        return dict(rows)


def survey(
    config: SourceConfig,
    required: Mapping[str, pa.DataType],
    unit_rows: int | None,
    scratch: str,
    hints: Mapping[str, str] = MappingProxyType({}),
) -> Survey:
    """`survey_all` for one source without a name."""
    return survey_all({"": Wanted(config, required, hints)}, unit_rows, scratch)


def survey_all(sources: Mapping[str, Wanted], unit_rows: int | None, scratch: str) -> Survey:
    """Read every file of every source once: content, columns, rows, where units begin.

    Args:
        sources: by name. One alone may have an empty name; rows of named ones carry theirs in
            the column `SOURCE_NAME`, which is part of the identity of their units and rows.
        unit_rows: rows of a unit; None: 512, times a power of two for large sources, so that
            each has some 10,000 units at most.
        scratch: folder URI for copies of files that cannot be entered in the middle.

    Raises:
        UserError: anything about a source that is wrong as a whole, before any work: a file
            that is missing or not what its name says, a column that is missing or of another
            type than in another source, no rows.
        RunError: ``scratch`` cannot be written.
    """
    scanned = [_scan(name, wanted, unit_rows, scratch) for name, wanted in sources.items()]
    schema, as_json = _schema(scanned)
    units: list[Unit] = []
    specs: dict[str, FileSpec] = {}
    for source in scanned:
        source.cut(unit_rows, scratch, units, specs)
    required = frozenset(name for source in scanned for name in source.wanted.required)
    return Survey(
        units,
        schema,
        rows=sum(facts.rows for source in scanned for facts in source.facts),
        malformed=sum(facts.malformed for source in scanned for facts in source.facts),
        spec=ReadSpec(schema, required, as_json, specs),
    )


@dataclass(frozen=True)
class _Scanned:
    """A source whose files have been read once."""

    name: str
    wanted: Wanted
    #: Up to the limit, and what is in them (never more rows than the limit).
    files: list[tuple[SourceFile, FileFacts]]

    @property
    def facts(self) -> list[FileFacts]:
        """What is in each file."""
        return [facts for _, facts in self.files]

    def holders(self, name: str) -> list[Column]:
        """A column, by the pipeline's name, as each file has it."""
        return [f.columns[f.chosen[name]] for f in self.facts if name in f.chosen]

    def cut(
        self, unit_rows: int | None, scratch: str, units: list[Unit], specs: dict[str, FileSpec]
    ) -> None:
        """Add the units, and how each file is read."""
        # Of this source alone: what another one has must not move the units of this one.
        size = unit_rows or default_unit_rows([facts.rows for facts in self.facts])
        copies: Counter[str] = Counter()
        for file, facts in self.files:
            # Two files with the same content are different rows, and so is a file that is in two
            # sources.
            file_id = f"{facts.content}.{copies[facts.content]}"
            copies[facts.content] += 1
            file_id = f"{self.name}/{file_id}" if self.name else file_id
            entered = file.format.make_seekable(facts, size, scratch)
            firsts = range(0, entered.rows, size)
            for first, offset in zip(firsts, entered.offsets(size), strict=True):
                rows = min(size, entered.rows - first)
                identity, kind = unit_id(file_id, first, rows), file.format.name
                unit = Unit(identity, entered.uri, kind, file_id, offset, first, rows, self.name)
                units.append(unit)
            specs[file_id] = FileSpec(
                file.uri, file.format, entered.size, entered.chosen, entered.layout
            )


def _scan(name: str, wanted: Wanted, unit_rows: int | None, scratch: str) -> _Scanned:
    config = wanted.config
    with _settings_of(name):
        options = ScanOptions(
            config,
            wanted.required,
            unit_rows,
            scratch,
            known_encoding(config.encoding),
            wanted.hints,
            (*ENVELOPE_COLUMNS, SOURCE_NAME) if name else ENVELOPE_COLUMNS,
        )
        files = []
        left = config.limit
        for file in find_files(config, scratch):
            if left == 0:
                break
            with readable(file.uri):
                facts = file.format.scan(file, options, left)
            if left is not None:
                facts = replace(facts, rows=min(facts.rows, left))
                left -= facts.rows
            files.append((file, facts))
        if not any(facts.rows for _, facts in files):
            raise UserError(f"source {config.path}: no rows in it: expected at least one")
    return _Scanned(name, wanted, files)


@contextmanager
def _settings_of(name: str) -> Iterator[None]:
    """Errors speak of settings in the section ``source``: name the one of a named source."""
    try:
        yield
    except UserError as error:
        if not name:
            raise
        settings = "|".join(SourceConfig.model_fields)
        message = re.sub(rf"(?<![\w/.-])source\.({settings})\b", rf"sources.{name}.\1", str(error))
        raise UserError(message) from None


def _schema(sources: Sequence[_Scanned]) -> tuple[pa.Schema, frozenset[str]]:
    """The columns of all files, in order of appearance, and which of them hold JSON text."""
    fields, as_json = [], set()
    if any(source.name for source in sources):
        fields.append(pa.field(SOURCE_NAME, pa.string()))
    names = dict.fromkeys(n for source in sources for f in source.facts for n in f.chosen)
    for name in names:
        type = _type_of(name, sources)
        if type is None:
            as_json.add(name)
        fields.append(pa.field(name, type or pa.string()))
    malformed = [
        (source.name, file.uri) for source in sources for file, f in source.files if f.malformed
    ]
    if malformed:
        if RAW_COLUMN not in names:
            fields.append(pa.field(RAW_COLUMN, pa.string()))
        elif next(field.type for field in fields if field.name == RAW_COLUMN) != pa.string():
            source, origin = malformed[0]
            with _settings_of(source):
                raise UserError(
                    f"source {origin}: it has malformed rows, whose text goes into the column "
                    f"{RAW_COLUMN!r}, but the source has a column of that name that is not text: "
                    f"give it another with source.columns: {{raw: {RAW_COLUMN}}}"
                )
    return pa.schema(fields), frozenset(as_json)


def _type_of(name: str, sources: Sequence[_Scanned]) -> pa.DataType | None:
    """The type of a column in all sources; None: its values are written as JSON text.

    Raises:
        UserError: sources have it with types that have nothing in common.
    """
    holders = {source.name: source.holders(name) for source in sources}
    asked = {s.name: s.wanted.required[name] for s in sources if name in s.wanted.required}
    types = {
        source: asked.get(source) or common_type(columns)
        for source, columns in holders.items()
        if source in asked or any(column.kinds for column in columns)
    }
    if len(set(types.values())) <= 1:
        return next(iter(types.values()), pa.string())
    columns = [column for of_source in holders.values() for column in of_source if column.kinds]
    wanted = next(iter(asked.values()), None)
    if wanted is None and (shared := common_type(columns)) is not None:
        return shared
    if wanted is not None and all(may_be(column, wanted) for column in columns):
        return wanted
    (a, of_a), (b, of_b) = next(
        (first, second)
        for first in types.items()
        for second in types.items()
        if first[1] != second[1]
    )
    raise UserError(
        f"sources.{b}: the column {name!r} is {_called(of_b)}, and in sources.{a} it is "
        f"{_called(of_a)}. A column has one type in all sources: convert it, or give it another "
        f"name with sources.{b}.columns: {{{b}_{name}: {name}}}"
    )


def _called(type: pa.DataType | None) -> str:
    return "of several types" if type is None else type_name(type)
