"""CSV: records with the byte offset where each starts, and faults that stay within their record.

Lines are cut from the binary file here and handed to Python's `csv` one by one, so that the
offset of a record is known even where cells hold line ends.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from ray_pipeline.core.errors import UserError
from ray_pipeline.sources.columns import Column
from ray_pipeline.sources.format import FileSpec
from ray_pipeline.sources.text import Found, Record, TextFormat, TextScan

DELIMITERS = (",", ";", "\t", "|")
#: A quote that is still open after so many bytes was never meant to be one.
_LONGEST_RECORD = 16 << 20
#: The module's own limit (128 KiB a cell) is less than a document; ours bounds the memory.
csv.field_size_limit(2 * _LONGEST_RECORD)


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written."""

    delimiter: str
    #: Python's name of the encoding, one in which a line end is the byte 10.
    encoding: str
    #: Names of the columns.
    header: tuple[str, ...]


@dataclass(frozen=True)
class Csv(TextFormat):
    """Comma-separated values with a header, or with another delimiter than the comma."""

    name = "csv"
    expected = "CSV"
    values_are_text = True

    #: What the file's extension says of the delimiter; None: it is found out.
    delimiter: str | None = None

    def scan_text(self, scan: TextScan) -> Found:
        """The header names the columns; it is checked before the records are read."""
        delimiter = scan.options.config.delimiter or self.delimiter
        dialect, start = read_header(
            io.BytesIO(scan.head), delimiter, scan.encoding, scan.options.own_names(), scan.uri
        )
        columns = {name: Column(frozenset({"text"})) for name in dialect.header}
        how_read = _how_read(dialect, configured=delimiter is not None)
        chosen = scan.options.choose(dialect.header, columns, self, scan.uri, how_read)
        scan.count(self.records(scan.skip(start), dialect, start))
        return Found(columns, chosen, dialect)

    def records(self, stream: BinaryIO, layout: Dialect, start: int) -> Iterator[Record]:
        """Blank lines are no records; ``cells`` are as many as the header has."""
        return _records(stream, layout, start)

    def values(self, records: Sequence[Record], file: FileSpec) -> Mapping[str, Sequence[Any]]:
        """See `TextFormat.values`."""
        columns = zip(*(record.cells for record in records), strict=True)
        return dict(zip(file.layout.header, columns, strict=True))


def _how_read(dialect: Dialect, configured: bool) -> str:
    """How the header was cut, for the end of a message about its columns."""
    origin = "as configured" if configured else "found out"
    read_with = f" (read with the delimiter {dialect.delimiter!r}, {origin}"
    if other := other_delimiter(dialect):
        return f"{read_with}, the header is a single column: set source.delimiter: {other!r})"
    return f"{read_with}; another one is set with source.delimiter)"


def read_header(
    file: BinaryIO, delimiter: str | None, encoding: str, needed: Sequence[str], uri: str
) -> tuple[Dialect, int]:
    """Read the header and find the delimiter out.

    Args:
        file: at its start.
        delimiter: None to find it out: the one that shows most of the needed columns, then the
            one that makes most columns.
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
    found = []
    for candidate in (delimiter,) if delimiter else DELIMITERS:
        file.seek(begin)
        lines = _Lines(file, encoding)
        names = _first_record(lines, candidate)
        if lines.undecodable:
            raise UserError(
                f"source {uri}: expected text in {encoding}, found other bytes in its header: "
                "set source.encoding (latin-1, cp1252, utf-16, ...)"
            )
        if names:
            score = (sum(name in needed for name in names), len(names))
            found.append((score, Dialect(candidate, encoding, _named(names)), lines.passed))
    if not found:
        raise UserError(
            f"source {uri}: expected a CSV header, found a quote in it that is never closed, or a "
            "carriage return within a name: mend its first line"
        )
    _, dialect, length = max(found, key=lambda entry: entry[0])
    return dialect, begin + length


def _first_record(lines: _Lines, delimiter: str) -> list[str]:
    """The first record that is not blank; none when there is no such, or it is malformed."""
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
    """Names for the columns that have none, like the index that pandas writes."""
    return tuple(name or f"column_{number}" for number, name in enumerate(names, 1))


class _Lines:
    """Feeds the lines of a file to `csv.reader` and remembers those of the record under way."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._readline = file.readline
        self._encoding = encoding
        #: Lines to be read again, after a record that took more than its own.
        self._again: deque[bytes] = deque()
        #: Lines of the record under way; to be emptied when it is done.
        self.taken: list[bytes] = []
        #: Their bytes.
        self.length = 0
        #: Bytes of the records before it, where somebody counts them.
        self.passed = 0
        self.undecodable = False
        #: The file ended, or the record became too long, before the reader had enough.
        self.ended = False

    def feed(self) -> Iterator[str]:
        """Decoded lines, line ends included; bytes that cannot be decoded are escaped."""
        readline, again, taken, encoding = self._readline, self._again, self.taken, self._encoding
        while line := (again.popleft() if again else readline()):
            if not taken:
                self.length = 0
            elif self.length > _LONGEST_RECORD:
                again.appendleft(line)
                break
            self.length += len(line)
            taken.append(line)
            try:
                yield line.decode(encoding)
            except UnicodeDecodeError:
                self.undecodable = True
                yield line.decode(encoding, "surrogateescape")
        self.ended = True

    def give_back(self) -> None:
        """Keep only the first line; the others are to be read again."""
        self._again.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]
        self.length = len(self.taken[0])
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
            # The common case, kept short.
            simple = len(taken) == 1 and not lines.undecodable and not lines.ended
            if simple and len(cells) == width:
                yield Record(start, cells)
                start += lines.length
                taken.clear()
                continue
            broken = _broken_quotes(lines, dialect)
        if broken:
            # The quote may have swallowed records that are whole: only its own line is lost.
            lines.give_back()
            reader = csv.reader(lines.feed(), delimiter=dialect.delimiter)
            cells = _cells_of_line(taken[0], dialect)
        is_blank = len(cells) < min(width, 2) and not taken[0].strip()
        if broken or not is_blank:
            yield _odd_record(start, cells, lines, dialect, broken)
        start += lines.length
        taken.clear()
        lines.undecodable = False


def _broken_quotes(lines: _Lines, dialect: Dialect) -> str | None:
    """The fault of a record whose quoted cell runs over lines that are probably not its own."""
    if lines.ended:
        return "source:quotes: a quote is opened and never closed"
    if len(lines.taken) > 1:
        text = [line.decode(dialect.encoding, "surrogateescape") for line in lines.taken]
        try:
            for _ in csv.reader(text, delimiter=dialect.delimiter, strict=True):
                pass
        except csv.Error as error:
            return f"source:quotes: a quoted cell goes on over lines and does not end well: {error}"
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
    fault = broken
    if not fault and len(cells) != width:
        fault = f"source:fields: expected {width} fields, found {len(cells)}"
    if lines.undecodable:
        cells, undecodable = _mend(cells, dialect)
        fault = fault or undecodable
    if fault is None:
        return Record(start, cells)
    raw = b"".join(lines.taken).decode(dialect.encoding, "replace").rstrip("\r\n")
    padded = [*cells[:width], *[None] * (width - len(cells))]
    return Record(start, padded, fault, raw)


def _mend(cells: list[str], dialect: Dialect) -> tuple[list[str], str | None]:
    """Cells with a replacement character for what is undecodable, and the first such fault."""
    fault = None
    mended = []
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
        mended.append(cell)
    return mended, fault


def other_delimiter(dialect: Dialect) -> str | None:
    """A delimiter that would cut a header of one column into several."""
    if len(dialect.header) > 1:
        return None
    name = "".join(dialect.header)
    fitting = [one for one in DELIMITERS if one in name and one != dialect.delimiter]
    return max(fitting, key=name.count, default=None)
