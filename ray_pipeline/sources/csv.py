"""CSV: records with their byte offsets; a malformed record does not affect the others.

Lines are read from the binary file here and passed to Python's `csv` one by one, so that the offset
of a record is known even where cells contain line ends.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from ray_pipeline.core.config import fix
from ray_pipeline.core.errors import UserError
from ray_pipeline.sources.columns import Column
from ray_pipeline.sources.format import FileSpec
from ray_pipeline.sources.signatures import how_to_decode
from ray_pipeline.sources.text import (
    LONGEST_LINE,
    Record,
    TextFacts,
    TextFormat,
    TextScan,
    line_reader,
    skip_rest,
    too_long,
)

DELIMITERS = (",", ";", "\t", "|")
#: Bytes that are kept of a line that is too long.
_KEPT_OF_LONG = 1000
#: The longest record, in bytes. A quote that is still open after it is taken for a stray character.
_LONGEST_RECORD = 16 << 20
#: Python's default limit (128 KiB per cell) is too small for documents.
csv.field_size_limit(2 * LONGEST_LINE)


@dataclass(frozen=True)
class Dialect:
    """The delimiter, encoding and header of a CSV file."""

    delimiter: str
    #: Python's name of the encoding, in which a line end must be the byte 10.
    encoding: str
    #: Names of the columns.
    header: tuple[str, ...]


@dataclass(frozen=True)
class Csv(TextFormat):
    """CSV with a header, separated by commas or another delimiter."""

    name = "csv"
    expected = "CSV"
    values_are_text = True

    #: The delimiter that the file's extension implies; None: it is detected.
    delimiter: str | None = None

    def scan_text(self, scan: TextScan) -> TextFacts:
        """Read the column names from the header and check them, then count the records."""
        delimiter = scan.options.config.delimiter or self.delimiter
        dialect, start = read_header(
            io.BytesIO(scan.head), delimiter, scan.encoding, scan.options.own_names(), scan.uri
        )
        columns = {name: Column(frozenset({"text"})) for name in dialect.header}
        how_read = _how_read(dialect, configured=delimiter is not None)
        chosen = scan.options.choose(dialect.header, columns, self, scan.uri, how_read)
        scan.count(self.records(scan.skip(start), dialect, start))
        return TextFacts(columns, chosen, dialect)

    def records(self, stream: BinaryIO, layout: Dialect, start: int) -> Iterator[Record]:
        """The records, without blank lines; ``cells`` has one cell for each column."""
        return _records(stream, layout, start)

    def values(self, records: Sequence[Record], file: FileSpec) -> Mapping[str, Sequence[Any]]:
        """See `TextFormat.values`."""
        columns = zip(*(record.cells for record in records), strict=True)
        return dict(zip(file.layout.header, columns, strict=True))


def _how_read(dialect: Dialect, configured: bool) -> str:
    """The delimiter that the header was read with, for the end of a message about its columns."""
    origin = "as configured" if configured else "found out"
    read_with = f" (read with the delimiter {dialect.delimiter!r}, {origin}"
    if other := other_delimiter(dialect):
        return f"{read_with}): the header is a single column; set {fix('source.delimiter', other)}"
    return f"{read_with}; another one is set with source.delimiter)"


def read_header(
    file: BinaryIO, delimiter: str | None, encoding: str, needed: Sequence[str], uri: str
) -> tuple[Dialect, int]:
    """Read the header, and detect the delimiter where it is not given.

    Args:
        file: the open file, at its start.
        delimiter: None to detect it: the one that yields most of the needed columns, then the one
            that yields most columns.
        encoding: of the text.
        needed: names that the header should have.
        uri: the file, for messages.

    Returns: the dialect, and the byte offset of the first record after the header.

    Raises:
        UserError: the header is not text in this encoding, or malformed.
    """
    if encoding == "utf-8" and file.read(3) != codecs.BOM_UTF8:
        file.seek(0)
    begin = file.tell()
    candidates = []
    for candidate in (delimiter,) if delimiter else DELIMITERS:
        file.seek(begin)
        lines = _Lines(file, encoding)
        names = _first_record(lines, candidate)
        if lines.undecodable:
            raise UserError(
                f"source {uri}: expected text in {encoding}, found other bytes in its header. "
                + how_to_decode(b"".join(lines.taken), b"".join(lines.taken))
            )
        if names:
            score = (sum(name in needed for name in names), len(names))
            candidates.append((score, Dialect(candidate, encoding, _named(names)), lines.passed))
    if not candidates:
        raise UserError(
            f"source {uri}: expected a CSV header, found a quote in it that is never closed, or a "
            "carriage return within a name: fix its first line"
        )
    _, dialect, length = max(candidates, key=lambda entry: entry[0])
    return dialect, begin + length


def _first_record(lines: _Lines, delimiter: str) -> list[str]:
    """The cells of the first record that is not blank; empty where that is malformed or missing."""
    try:
        for names in csv.reader(lines.feed(), delimiter=delimiter):
            lines.passed += lines.length
            lines.taken.clear()
            if any(name.strip() for name in names):
                return [] if lines.ended else names
    except csv.Error:
        pass
    return []


def _named(names: Sequence[str]) -> tuple[str, ...]:
    """The header with names for unnamed columns, such as the index column that pandas writes."""
    return tuple(name or f"column_{number}" for number, name in enumerate(names, 1))


class _Cut(bytes):
    """The beginning of a line that is too long, as a line without quotes.

    A quote that is opened there would make the reader look for its end in the lines that follow.
    """

    size: int

    def __new__(cls, line: bytes, size: int) -> _Cut:
        """Keep the beginning of a line of ``size`` bytes."""
        cut = super().__new__(cls, line[:_KEPT_OF_LONG].replace(b'"', b"'") + b"\n")
        cut.size = size
        return cut


class _Lines:
    """Feeds the lines of a file to `csv.reader` and keeps those of the current record."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._file = file
        self._readline, self._longest = line_reader(file)
        self._encoding = encoding
        #: Lines to read again, because a stray quote made a record swallow them.
        self._reread: deque[bytes] = deque()
        #: Lines of the current record; the caller clears the list when the record is done.
        self.taken: list[bytes] = []
        #: Number of bytes in `taken`.
        self.length = 0
        #: Number of bytes of the records before it; only counted while the header is read.
        self.passed = 0
        #: Whether a line of the current record cannot be decoded.
        self.undecodable = False
        #: Size of a line of the current record that is too long; 0: none is.
        self.long = 0
        #: Whether the file ended, or the record became too long, within the current record.
        self.ended = False

    def feed(self) -> Iterator[str]:
        """Decoded lines, line ends included; bytes that cannot be decoded are escaped."""
        readline, reread, taken, encoding = self._readline, self._reread, self.taken, self._encoding
        longest = self._longest
        while line := (reread.popleft() if reread else readline()):
            if len(line) == longest and (rest := skip_rest(line, self._file)):
                line = _Cut(line, len(line) + rest)
            if not taken:
                self.length = 0
            elif self.length > _LONGEST_RECORD:
                reread.appendleft(line)
                break
            if type(line) is _Cut:
                self.long = line.size
                self.length += line.size
            else:
                self.length += len(line)
            taken.append(line)
            try:
                yield line.decode(encoding)
            except UnicodeDecodeError:
                self.undecodable = True
                yield line.decode(encoding, "surrogateescape")
        self.ended = True

    def give_back(self) -> None:
        """Keep only the record's first line; the others will be read again."""
        self._reread.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]
        self.length = len(self.taken[0])
        self.long = 0
        if isinstance(self.taken[0], _Cut):
            self.length = self.long = self.taken[0].size
        self.ended = False
        self.undecodable = not _decodes(self.taken[0], self._encoding)


def _decodes(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _records(file: BinaryIO, dialect: Dialect, start: int) -> Iterator[Record]:
    width = len(dialect.header)
    lines = _Lines(file, dialect.encoding)
    taken = lines.taken
    reader = csv.reader(lines.feed(), delimiter=dialect.delimiter)
    cells: list[str] | None
    broken: str | None
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            cells, broken = [], f"source:csv: {error}"
        else:
            if cells is None:
                return
            # The common case first, because this loop runs for every record.
            simple = not (len(taken) > 1 or lines.undecodable or lines.ended or lines.long)
            if simple and len(cells) == width:
                yield Record(start, cells)
                start += lines.length
                taken.clear()
                continue
            broken = _broken_quotes(lines, dialect)
        if broken:
            # A stray quote may have swallowed well-formed records: only its own line is malformed.
            lines.give_back()
            reader = csv.reader(lines.feed(), delimiter=dialect.delimiter)
            cells = _cells_of_line(taken[0], dialect)
        is_blank = len(cells) < min(width, 2) and not taken[0].strip()
        if broken or not is_blank:
            yield _odd_record(start, cells, lines, dialect, broken)
        start += lines.length
        taken.clear()
        lines.undecodable = False
        lines.long = 0


def _broken_quotes(lines: _Lines, dialect: Dialect) -> str | None:
    """The fault of a record with a quote that is never or not properly closed; None if it is fine.

    Such a quote is probably a stray character, and the lines after it are other records.
    """
    if lines.ended:
        return "source:quotes: a quote is opened and never closed"
    if len(lines.taken) > 1:
        text = [line.decode(dialect.encoding, "surrogateescape") for line in lines.taken]
        try:
            for _ in csv.reader(text, delimiter=dialect.delimiter, strict=True):
                pass
        except csv.Error as error:
            return f"source:quotes: a quoted cell over several lines is malformed: {error}"
    return None


def _cells_of_line(line: bytes, dialect: Dialect) -> list[str]:
    text = line.decode(dialect.encoding, "surrogateescape")
    try:
        return next(csv.reader([text], delimiter=dialect.delimiter), [])
    except csv.Error:
        return []


def _odd_record(
    start: int, cells: list[str], lines: _Lines, dialect: Dialect, broken: str | None
) -> Record:
    """A record that is not simple: over several lines, malformed, or both."""
    width = len(dialect.header)
    fault = too_long(lines.long) if lines.long else broken
    if not fault and len(cells) != width:
        fault = f"source:fields: expected {width} fields, found {len(cells)}"
    if lines.undecodable:
        cells, undecodable = _with_replacements(cells, dialect)
        fault = fault or undecodable
    if fault is None:
        return Record(start, cells)
    raw = b"".join(lines.taken).decode(dialect.encoding, "replace").rstrip("\r\n")
    raw += "…" if lines.long else ""
    padded = [*cells[:width], *[None] * (width - len(cells))]
    return Record(start, padded, fault, raw)


def _with_replacements(cells: list[str], dialect: Dialect) -> tuple[list[str], str | None]:
    """Cells with U+FFFD for undecodable bytes, and the fault for the first such byte."""
    fault = None
    replaced = []
    for number, cell in enumerate(cells):
        if any("\udc80" <= character <= "\udcff" for character in cell):
            escaped = next(c for c in cell if "\udc80" <= c <= "\udcff")
            name = (
                dialect.header[number] if number < len(dialect.header) else f"number {number + 1}"
            )
            fault = fault or (
                f"source:undecodable: column {name!r}: byte 0x{ord(escaped) - 0xDC00:02x} is not "
                f"{dialect.encoding}"
            )
            encoded = cell.encode(dialect.encoding, "surrogateescape")
            cell = encoded.decode(dialect.encoding, "replace")
        replaced.append(cell)
    return replaced, fault


def other_delimiter(dialect: Dialect) -> str | None:
    """A delimiter that would split a header of one column into several; None if there is none."""
    if len(dialect.header) > 1:
        return None
    name = "".join(dialect.header)
    others = [mark for mark in DELIMITERS if mark in name and mark != dialect.delimiter]
    return max(others, key=name.count, default=None)
