"""The survey: reads all sources once before a run, and cuts them into units."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import pyarrow as pa

from ray_pipeline.core.config import fix
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.json_values import json_field
from ray_pipeline.core.rows import ENVELOPE_COLUMNS
from ray_pipeline.rundir.layout import SOURCE_NAME
from ray_pipeline.rundir.units import Unit, default_unit_rows, unit_id
from ray_pipeline.sources.columns import (
    RAW_COLUMN,
    Column,
    check_required,
    common_type,
    may_be,
    type_name,
)
from ray_pipeline.sources.config import SourceConfig
from ray_pipeline.sources.files import readable
from ray_pipeline.sources.find import find_files
from ray_pipeline.sources.format import FileFacts, FileSpec, ScanOptions, SourceFile
from ray_pipeline.sources.read import ReadSpec
from ray_pipeline.sources.signatures import EmptyFile
from ray_pipeline.sources.text import known_encoding


@dataclass(frozen=True)
class SourceRequest:
    """A source to survey, with the columns that the stages require of it."""

    config: SourceConfig
    #: The pipeline's names and types of the required columns.
    required: Mapping[str, pa.DataType] = field(default_factory=dict)
    #: The end of the error message about a required column that is missing, by the column's name.
    hints: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Survey:
    """All sources, cut into units. Can be pickled."""

    #: The units, ordered by source, then by the file's URI, then by row.
    units: list[Unit]
    #: Data columns by the pipeline's names, without the envelope; the same for every unit.
    schema: pa.Schema
    rows: int
    #: Number of records that cannot be parsed; `read_unit` marks them failed. Rows with values of
    #: a wrong type are not counted here.
    malformed: int
    #: The second argument of `ray_pipeline.sources.read.read_unit`.
    spec: ReadSpec
    #: What the user should know of the files, such as those that are passed over.
    notes: tuple[str, ...] = ()

    @property
    def rows_by_source(self) -> dict[str, int]:
        """Number of rows of each source, by its name."""
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
    """Survey one source without a name; see `survey_all`."""
    return survey_all({"": SourceRequest(config, required, hints)}, unit_rows, scratch)


def survey_all(sources: Mapping[str, SourceRequest], unit_rows: int | None, scratch: str) -> Survey:
    """Read every file of every source once, and cut the sources into units.

    Args:
        sources: the sources by name. A single source may have an empty name. Rows of a named
            source carry its name in the column `SOURCE_NAME`, and the name is part of the
            identity of its units and rows.
        unit_rows: rows of a unit; None: 512 times a power of two, so that each source has about
            10,000 units at most.
        scratch: folder URI for copies of files that cannot be read from the middle.

    Raises:
        UserError: a file is missing or not what its name says, a column is missing or has another
            type than in another source, or a source has no rows.
        RunError: ``scratch`` cannot be written.
    """
    scanned = [_scan(name, request, unit_rows, scratch) for name, request in sources.items()]
    schema, as_json = _schema(scanned)
    units: list[Unit] = []
    specs: dict[str, FileSpec] = {}
    for source in scanned:
        source.cut(unit_rows, scratch, units, specs, as_json)
    required = frozenset(name for source in scanned for name in source.request.required)
    return Survey(
        units,
        schema,
        rows=sum(facts.rows for source in scanned for facts in source.facts),
        malformed=sum(facts.malformed for source in scanned for facts in source.facts),
        spec=ReadSpec(schema, required, as_json, specs),
        notes=tuple(_notes(scanned, as_json)),
    )


@dataclass(frozen=True)
class _Scanned:
    """A source whose files have been read once."""

    name: str
    request: SourceRequest
    #: The files read, with at most as many rows in all as the source's limit allows.
    files: list[tuple[SourceFile, FileFacts]]
    #: What the user should know of how the path was read, and of files that were passed over.
    notes: list[str]

    @property
    def facts(self) -> list[FileFacts]:
        """The scan result of each file."""
        return [facts for _, facts in self.files]

    def columns_named(self, name: str) -> list[Column]:
        """The column with this name in the pipeline, in each file that has it."""
        return [f.columns[f.chosen[name]] for f in self.facts if name in f.chosen]

    def cut(
        self,
        unit_rows: int | None,
        scratch: str,
        units: list[Unit],
        specs: dict[str, FileSpec],
        as_json: frozenset[str],
    ) -> None:
        """Append this source's units to ``units``, and add its files to ``specs``."""
        # From this source alone: a change in another source must not move the units of this one.
        size = unit_rows or default_unit_rows([facts.rows for facts in self.facts])
        copies: Counter[str] = Counter()
        for file, facts in self.files:
            # Files with the same content have different rows, and so does a file in two sources.
            file_id = f"{facts.content}.{copies[facts.content]}"
            copies[facts.content] += 1
            file_id = f"{self.name}/{file_id}" if self.name else file_id
            seekable = file.format.make_seekable(facts, size, scratch)
            firsts = range(0, seekable.rows, size)
            for first, offset in zip(firsts, seekable.offsets(size), strict=True):
                rows = min(size, seekable.rows - first)
                identity, kind = unit_id(file_id, first, rows), file.format.name
                unit = Unit(identity, seekable.uri, kind, file_id, offset, first, rows, self.name)
                units.append(unit)
            specs[file_id] = FileSpec(
                file.uri,
                file.format,
                seekable.size,
                seekable.chosen,
                seekable.layout,
                self._as_written(seekable, as_json),
                self.request.config.nested == "json",
            )

    def _as_written(self, facts: FileFacts, as_json: frozenset[str]) -> frozenset[str]:
        """The file's names of columns of JSON values, or of text, that hold more than text."""
        required = self.request.required
        return frozenset(
            own
            for name, own in facts.chosen.items()
            if (name in as_json or required.get(name) == pa.string())
            and not facts.columns[own].kinds <= {"text"}
        )

    def check_required(self) -> None:
        """Check that the values of undeclared types can have the type that a stage reads.

        Raises:
            UserError: no value of a column in any of the files can.
        """
        nested_as_json = self.request.config.nested == "json"
        for name, expected in self.request.required.items():
            with_column = [
                (file, facts)
                for file, facts in self.files
                if facts.columns[facts.chosen[name]].declared is None
            ]
            parsed = [pair for pair in with_column if not pair[0].format.values_are_text]
            if not parsed or (len(parsed) < len(with_column) and expected == pa.string()):
                continue
            file, facts = parsed[0]
            kinds = (facts.columns[facts.chosen[name]].kinds for _, facts in parsed)
            column = Column(frozenset().union(*kinds))
            if nested_as_json and expected == pa.string() and "other" in column.kinds:
                continue
            check_required(name, facts.chosen[name], column, expected, file.uri)


def _scan(name: str, request: SourceRequest, unit_rows: int | None, scratch: str) -> _Scanned:
    config = request.config
    with _settings_of(name):
        options = ScanOptions(
            config,
            request.required,
            unit_rows,
            scratch,
            known_encoding(config.encoding),
            request.hints,
            (*ENVELOPE_COLUMNS, SOURCE_NAME) if name else ENVELOPE_COLUMNS,
        )
        found = find_files(config, scratch)
        files, notes = [], list(found.notes)
        left = config.limit
        empty: EmptyFile | None = None
        for file in found.files:
            if left == 0:
                break
            try:
                with readable(file.uri):
                    facts = file.format.scan(file, options, left)
            except EmptyFile as error:
                empty = empty or error
                notes.append(f"{file.uri}: an empty file, passed over")
                continue
            if not facts.rows:
                notes.append(f"{file.uri}: a file without rows")
            if left is not None:
                facts = replace(facts, rows=min(facts.rows, left))
                left -= facts.rows
            files.append((file, facts))
        if not any(facts.rows for _, facts in files):
            if empty is not None and len(found.files) == 1:
                raise empty
            raise UserError(
                f"source {config.path}: no rows in it: expected at least one"
                + f" ({len(found.files)} files, all of them empty)" * (len(found.files) > 1)
            )
        unreadable = [facts.why_unreadable for _, facts in files if facts.rows]
        if all(unreadable):
            raise UserError(unreadable[0])
        notes += [why.removeprefix("source ") for why in unreadable if why]
        scanned = _Scanned(name, request, files, notes)
        scanned.check_required()
    return scanned


@contextmanager
def _settings_of(name: str) -> Iterator[None]:
    """Rewrite errors about ``source.KEY`` to ``sources.NAME.KEY`` where the source has a name."""
    try:
        yield
    except UserError as error:
        if not name:
            raise
        settings = "|".join(SourceConfig.model_fields)
        message = re.sub(rf"(?<![\w/.-])source\.({settings})\b", rf"sources.{name}.\1", str(error))
        raise UserError(message) from None


def _schema(sources: Sequence[_Scanned]) -> tuple[pa.Schema, frozenset[str]]:
    """The columns of all files, in order of appearance, and the names of those of JSON text."""
    fields, as_json = [], set()
    if any(source.name for source in sources):
        fields.append(pa.field(SOURCE_NAME, pa.string()))
    names = dict.fromkeys(n for source in sources for f in source.facts for n in f.chosen)
    for name in names:
        type = _type_of(name, sources)
        if type is None:
            as_json.add(name)
        fields.append(json_field(name) if type is None else pa.field(name, type))
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
                    f"give it another with {fix('source.columns', _renamed(sources, source))}"
                )
    return pa.schema(fields), frozenset(as_json)


def _renamed(sources: Sequence[_Scanned], name: str) -> dict[str, str]:
    """The configured columns of a source, and another name for its column `RAW_COLUMN`."""
    columns = next(source.request.config.columns for source in sources if source.name == name)
    kept = {n: own for n, own in columns.items() if n != RAW_COLUMN}
    return {**kept, "raw": columns.get(RAW_COLUMN, RAW_COLUMN)}


#: What the kinds of `Column.kinds` are called in notes.
_IN_WORDS = {
    **dict.fromkeys(("int", "wide", "float", "long"), "numbers"),
    "bool": "true or false",
    "other": "lists or objects",
    "text": "text",
}


def _notes(sources: Sequence[_Scanned], as_json: frozenset[str]) -> Iterator[str]:
    """What the user should know: of single files, and of columns with values of several types."""
    for source in sources:
        yield from source.notes
        for facts in source.facts:
            yield from facts.notes
        names = dict.fromkeys(name for facts in source.facts for name in facts.chosen)
        for name in names:
            kinds = frozenset[str]().union(*(c.kinds for c in source.columns_named(name)))
            words = " and ".join(dict.fromkeys(_IN_WORDS[kind] for kind in sorted(kinds)))
            if name in as_json and kinds != {"other"}:
                yield (
                    f"column {name!r} has {words}; every value is carried as it is, and Parquet "
                    "and CSV hold it as text"
                )
            elif source.request.required.get(name) == pa.string() and kinds > {"text"}:
                nested = {
                    "fail": "a list or an object fails its row (`nested: json` makes it text)",
                    "json": "a list or an object becomes its JSON",
                }[source.request.config.nested]
                also = f"; {nested}" if "other" in kinds else ""
                yield (
                    f"column {name!r} has {words}, and is read as text: numbers, true and false "
                    f"as the file writes them{also}"
                )


def _type_of(name: str, sources: Sequence[_Scanned]) -> pa.DataType | None:
    """The type of a column in all sources; None: its values are written as JSON text.

    Raises:
        UserError: the column has incompatible types in two sources.
    """
    by_source = {source.name: source.columns_named(name) for source in sources}
    required = {s.name: s.request.required[name] for s in sources if name in s.request.required}
    types = {
        source: required.get(source) or common_type(columns)
        for source, columns in by_source.items()
        if source in required or any(column.kinds for column in columns)
    }
    if len(set(types.values())) <= 1:
        return next(iter(types.values()), pa.string())
    columns = [column for of_source in by_source.values() for column in of_source if column.kinds]
    expected = next(iter(required.values()), None)
    if expected is None and (shared := common_type(columns)) is not None:
        return shared
    if expected is not None and all(may_be(column, expected) for column in columns):
        return expected
    (a, of_a), (b, of_b) = next(
        (first, second)
        for first in types.items()
        for second in types.items()
        if first[1] != second[1]
    )
    request = next(source.request for source in sources if source.name == b)
    own = request.config.columns.get(name, name)
    kept = {n: o for n, o in request.config.columns.items() if n != name}
    columns_of_b = {**kept, f"{b}_{name}": own}
    raise UserError(
        f"sources.{b}: the column {name!r} is {_called(of_b)}, and in sources.{a} it is "
        f"{_called(of_a)}. A column has one type in all sources: convert it, or give it another "
        f"name with {fix(f'sources.{b}.columns', columns_of_b)}"
    )


def _called(type: pa.DataType | None) -> str:
    return "of several types" if type is None else type_name(type)
