"""One pass over one file: what it holds, where its records start, which are malformed."""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from typing import BinaryIO, cast

import pyarrow as pa

from ray_pipeline.core.errors import UserError
from ray_pipeline.rundir.units import DEFAULT_UNIT_ROWS, Marks
from ray_pipeline.sources import csv as csv_format
from ray_pipeline.sources import json as json_format
from ray_pipeline.sources import parquet as parquet_format
from ray_pipeline.sources import staging
from ray_pipeline.sources.columns import Column, check_required, choose_columns
from ray_pipeline.sources.config import SourceConfig
from ray_pipeline.sources.files import (
    WHOLE_FILE_BUFFER,
    HashingReader,
    SourceFile,
    content_hash,
    head_of,
    open_binary,
    readable,
)


@dataclass(frozen=True)
class Wanted:
    """What a survey asks of every file."""

    config: SourceConfig
    #: Pipeline's name -> type of the columns that must be there.
    required: Mapping[str, pa.DataType]
    unit_rows: int | None
    scratch: str
    #: Python's name of the configured encoding.
    encoding: str
    #: What to say of a required column that is missing, by its name.
    hints: Mapping[str, str]

    def own_names(self) -> list[str]:
        """The names that the files should have."""
        return [self.config.columns.get(name, name) for name in self.required]


@dataclass(frozen=True)
class FileFacts:
    """What a survey found in one file. Can be pickled, and reused for the same content."""

    rows: int
    #: Malformed rows among them.
    malformed: int
    #: By the file's names, in the file's order.
    columns: dict[str, Column]
    #: Pipeline's name -> the file's name.
    chosen: dict[str, str]
    #: SHA-256 of the original's bytes.
    content: str = ""
    #: Hash of the content and of everything asked of the file: what the facts depend on.
    key: str = ""
    #: Starts of records (csv, jsonl).
    marks: Marks | None = None
    dialect: csv_format.Dialect | None = None
    encoding: str = "utf-8"
    #: Of Parquet and Arrow files.
    table: parquet_format.TableFacts | None = None
    #: The file to read: the original, or its copy as plain text.
    uri: str = ""
    size: int = 0


def known_encoding(name: str) -> str:
    """Python's own name of a text encoding. Raises UserError when there is none."""
    try:
        found = codecs.lookup(name)
        "\n".encode(found.name)
    except (LookupError, TypeError):
        raise UserError(
            f"source.encoding: unknown text encoding {name!r}; known are utf-8, utf-16, latin-1, "
            "cp1252, shift_jis, gb18030 and Python's others"
        ) from None
    return "utf-8" if found.name in ("utf-8", "utf-8-sig") else found.name


def inspect_file(
    file: SourceFile, wanted: Wanted, limit: int | None, cache: Mapping[str, FileFacts]
) -> FileFacts:
    """Read a file once and say what is in it.

    Args:
        file: from `ray_pipeline.sources.find.find_files`.
        wanted: the survey's questions.
        limit: rows after which nothing is parsed (the rest is only hashed); None: none.
        cache: facts by their `FileFacts.key`, used when content and questions are the same.

    Raises:
        UserError: the file is not what its name says, is empty, or lacks a column.
    """
    with readable(file.uri):
        head = head_of(file.uri)
        is_table = file.format in ("parquet", "arrow")
        recode = None if is_table or _has_plain_lines(wanted.encoding) else wanted.encoding
        array = file.format == "json" and not file.compression and staging.starts_array(head)
        must_stage = bool(file.compression or recode or array)
        content = content_hash(file.uri) if must_stage or is_table or cache else None
        known = cache.get(_key(content, file, wanted, limit)) if content else None
        if known and staging.is_there(known.uri):
            return replace(known, uri=known.uri if must_stage else file.uri)
        if is_table:
            assert content is not None
            facts = _inspect_table(file, wanted, content, head)
        else:
            facts = _inspect_text(file, wanted, limit, content if must_stage else None, recode)
    return replace(facts, key=_key(facts.content, file, wanted, limit))


def _key(content: str, file: SourceFile, wanted: Wanted, limit: int | None) -> str:
    required = {name: str(type) for name, type in sorted(wanted.required.items())}
    asked = [
        content, file.format, file.compression, file.delimiter, wanted.config.delimiter,
        wanted.encoding, wanted.config.columns, required, wanted.unit_rows, limit,
    ]  # fmt: skip
    return sha256(json.dumps(asked).encode()).hexdigest()


def _has_plain_lines(encoding: str) -> bool:
    """Whether a line end is the byte 10, and no other character holds that byte."""
    return "a,\n".encode(encoding) == b"a,\n"


def _inspect_table(file: SourceFile, wanted: Wanted, content: str, head: bytes) -> FileFacts:
    if file.format == "parquet":
        check_parquet(head, file.uri)
        table = parquet_format.parquet_facts(file.uri)
    else:
        table = parquet_format.arrow_facts(file.uri)
    columns = {field.name: Column.of_type(field.type) for field in table.schema}
    chosen = _choose(table.schema.names, columns, wanted, file.uri)
    with open_binary(file.uri) as stream:
        size = stream.seek(0, io.SEEK_END)
    return FileFacts(
        rows=table.rows, malformed=0, columns=columns, chosen=chosen, content=content,
        table=table, uri=file.uri, size=size,
    )  # fmt: skip


def _choose(
    names: Sequence[str],
    columns: Mapping[str, Column],
    wanted: Wanted,
    uri: str,
    how_read: str = "",
    from_text: bool = False,
) -> dict[str, str]:
    """Names of the columns, with the required ones there and of a possible type."""
    required = {name: wanted.hints.get(name, "") + how_read for name in wanted.required}
    chosen = choose_columns(names, wanted.config.columns, required, uri, how_read)
    # A CSV cell is text that may well write a number: each is judged when it is read.
    for name, expected in wanted.required.items() if not from_text else ():
        own = chosen[name]
        check_required(name, own, columns[own], expected, uri)
    return chosen


def _inspect_text(
    file: SourceFile, wanted: Wanted, limit: int | None, content: str | None, recode: str | None
) -> FileFacts:
    """Inspect a text file, or its plain copy (where ``content``, the original's hash, is given)."""
    uri = file.uri
    if content:
        uri = staging.stage_text(file, content, recode, wanted.scratch)
    encoding = "utf-8" if recode else wanted.encoding
    expected = "CSV" if file.format == "csv" else "JSON lines"
    head = head_of(uri)
    check_text(head, expected, file.uri)
    marks = Marks(wanted.unit_rows or DEFAULT_UNIT_ROWS, may_grow=wanted.unit_rows is None)
    scan = _scan_csv if file.format == "csv" else _scan_jsonl
    with open_binary(uri) as raw:
        hashing = HashingReader(raw)
        stream = cast(BinaryIO, io.BufferedReader(hashing, WHOLE_FILE_BUFFER))
        facts = scan(stream, head, file, wanted, encoding, limit, marks)
        hashed = hashing.finish()
        return replace(facts, content=content or hashed, uri=uri, size=raw.tell())


def _scan_csv(
    stream: BinaryIO,
    head: bytes,
    file: SourceFile,
    wanted: Wanted,
    encoding: str,
    limit: int | None,
    marks: Marks,
) -> FileFacts:
    """Check the header, then count and mark the records. The stream cannot seek."""
    delimiter = wanted.config.delimiter or file.delimiter
    dialect, start = csv_format.read_header(
        io.BytesIO(head), delimiter, encoding, wanted.own_names(), file.uri
    )
    columns = {name: Column(frozenset({"text"})) for name in dialect.header}
    how_read = _how_read(dialect, configured=delimiter is not None)
    chosen = _choose(dialect.header, columns, wanted, file.uri, how_read, from_text=True)
    stream.read(start)
    rows = malformed = 0
    for record in islice(csv_format.records(stream, dialect, start), limit):
        if rows % marks.step == 0:
            marks.add(record.start)
        rows += 1
        if record.fault:
            malformed += 1
    return FileFacts(
        rows=rows, malformed=malformed, columns=columns, chosen=chosen, marks=marks,
        dialect=dialect, encoding=encoding,
    )  # fmt: skip


def _how_read(dialect: csv_format.Dialect, configured: bool) -> str:
    """How the header was cut, for the end of a message about its columns."""
    origin = "as configured" if configured else "found out"
    told = f" (read with the delimiter {dialect.delimiter!r}, {origin}"
    if other := csv_format.other_delimiter(dialect):
        return f"{told}, the header is a single column: set source.delimiter: {other!r})"
    return f"{told}; another one is set with source.delimiter)"


def _scan_jsonl(
    stream: BinaryIO,
    head: bytes,
    file: SourceFile,
    wanted: Wanted,
    encoding: str,
    limit: int | None,
    marks: Marks,
) -> FileFacts:
    """Count and mark the lines, and see which columns they have. The stream cannot seek."""
    start = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
    stream.read(start)
    seen = json_format.ColumnsSeen()
    rows = malformed = objects = 0
    first_fault = None
    for record in islice(json_format.records(stream, encoding, start), limit):
        if rows % marks.step == 0:
            marks.add(record.start)
        rows += 1
        if record.fault:
            malformed += 1
            first_fault = first_fault or record.fault
        if record.cells:
            objects += 1
            seen.add(record.cells)
    if not objects:
        raise UserError(
            f"source {file.uri}: expected JSON lines (one object a line), and none of its {rows} "
            f"lines is an object with columns; the first: {first_fault or 'empty'}. A file that "
            "holds one array is named .json"
        )
    columns = seen.columns()
    chosen = _choose(list(columns), columns, wanted, file.uri)
    return FileFacts(
        rows=rows, malformed=malformed, columns=columns, chosen=chosen, marks=marks,
        encoding=encoding,
    )  # fmt: skip


# What the first bytes of a file give away: it may not be what its name says.

_SIGNATURES = {
    b"\x1f\x8b": ("gzip data", "add .gz to its name, or decompress it"),
    b"BZh": ("bzip2 data", "add .bz2 to its name, or decompress it"),
    b"\x28\xb5\x2f\xfd": ("Zstandard data", "add .zst to its name, or decompress it"),
    b"PAR1": ("a Parquet file", "name it .parquet"),
    b"PK\x03\x04": ("a ZIP file or a spreadsheet", "unpack it, or save it as CSV"),
    codecs.BOM_UTF16_LE: ("UTF-16 text", "set source.encoding: utf-16"),
    codecs.BOM_UTF16_BE: ("UTF-16 text", "set source.encoding: utf-16"),
}


def check_text(head: bytes, expected: str, uri: str) -> None:
    """Refuse a file that is empty or does not begin as text.

    Args:
        head: its first bytes.
        expected: ``CSV`` or ``JSON lines``, for the message.
        uri: the file, for the message.

    Raises:
        UserError: with what was found and the mend.
    """
    if not head.strip():
        raise UserError(
            f"source {uri}: expected {expected}, found an empty file: remove it or write it again"
        )
    for signature, (found, mend) in _SIGNATURES.items():
        if head.startswith(signature):
            raise UserError(f"source {uri}: expected {expected}, found {found}: {mend}")
    if _is_binary(head):
        raise UserError(
            f"source {uri}: expected {expected}, found binary data (bytes of zero) or UTF-16: "
            "name it by what it is, convert it, or set source.encoding"
        )
    if b"\r" in head and b"\n" not in head:
        raise UserError(
            f"source {uri}: expected {expected} with line ends, found only carriage returns "
            "(old Macintosh text): convert its line ends to \\n"
        )


def _is_binary(head: bytes) -> bool:
    # A cell may hold a zero byte. The first line, of names or of JSON, does not.
    start = head.lstrip(b"\r\n")
    many = len(start) > 1000 and start.count(0) > len(start) / 10
    return b"\0" in start.partition(b"\n")[0] or many


def check_parquet(head: bytes, uri: str) -> None:
    """Refuse a file that does not begin as Parquet does. Raises UserError."""
    if not head:
        raise UserError(
            f"source {uri}: expected Parquet, found an empty file: remove it or write it again"
        )
    if not head.startswith(b"PAR1"):
        raise UserError(
            f"source {uri}: expected Parquet as its name says, found something that begins with "
            f"{head[:16]!r}: name it by what it is (.csv, .jsonl), or write it again"
        )
