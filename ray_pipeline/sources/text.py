"""Text formats: a sequence of records, which can be read from the byte where any of them starts."""

from __future__ import annotations

import codecs
import contextlib
import io
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, BinaryIO, ClassVar, NamedTuple, cast

import pyarrow as pa

from ray_pipeline.core.errors import UserError
from ray_pipeline.rundir.units import DEFAULT_UNIT_ROWS, Marks, Unit
from ray_pipeline.sources.columns import Column
from ray_pipeline.sources.files import (
    UNIT_BUFFER,
    WHOLE_FILE_BUFFER,
    HashingReader,
    content_hash,
    head_of,
    open_binary,
    readable,
    size_of,
)
from ray_pipeline.sources.format import (
    Cells,
    FileFacts,
    FileSpec,
    Format,
    ScanOptions,
    SourceFile,
)
from ray_pipeline.sources.signatures import check_text, how_to_decode
from ray_pipeline.sources.staging import is_there, publish, staged_uri

_CHUNK = 1 << 20
#: The longest line, in bytes. Of a longer one no more is held in memory, and its row fails.
LONGEST_LINE = 32 << 20
#: Text of a line that is too long that its row keeps.
_KEPT = 1000
#: A compressed file may hold this many times its size, or this many bytes where that is more.
#: Text becomes 3 to 30 times smaller; repeated bytes, which fill a disk or the memory, 1,000 times.
_MOST_EXPANSION, _ALWAYS_ALLOWED = 200, 256 << 20


class Record(NamedTuple):
    """One record of a text file."""

    #: Byte offset of its first line.
    start: int
    #: Its values, in the format's own container.
    cells: Any
    #: Why it is malformed, and its raw text; None for a well-formed record.
    fault: str | None = None
    raw: str | None = None


class Arrangement(NamedTuple):
    """How rows are arranged in a file whose lines are not its records; such a file is copied."""

    #: What the name of the copy has besides the content's hash.
    suffix: str
    #: Converts the text of the file to that of the copy.
    lines: Callable[[Iterable[bytes]], Iterable[bytes]]
    #: What the user should know, in sentences that name the file.
    notes: tuple[str, ...] = ()


class TextFacts(NamedTuple):
    """The result of `TextFormat.scan_text`."""

    #: The columns by the file's names.
    columns: dict[str, Column]
    #: Pipeline's name -> the file's name.
    chosen: dict[str, str]
    #: What `TextFormat.records` needs to read the file, such as a CSV dialect.
    layout: Any
    #: What the user should know of the file, in sentences that name it.
    notes: tuple[str, ...] = ()


class TextFormat(Format):
    """A format whose records are one or several lines of text.

    A subclass finds the columns of a file (`scan_text`), splits it into records (`records`), and
    extracts their values (`values`). Hashing, decompression, encodings, counting and offsets are
    implemented here.
    """

    compressible = True
    #: The format's name in messages.
    expected: ClassVar[str]

    @abstractmethod
    def scan_text(self, scan: TextScan) -> TextFacts:
        """Find the layout and the columns; every record must be passed to ``scan.count``.

        Raises:
            UserError: the file is not of this format, or lacks a column.
        """

    @abstractmethod
    def records(self, stream: BinaryIO, layout: Any, start: int) -> Iterator[Record]:
        """The records from byte ``start`` on, which is the stream's position and a record's start.

        Records must not depend on where in the file reading starts.
        """

    def unit_records(self, stream: BinaryIO, start: int, file: FileSpec) -> Iterator[Record]:
        """The same records, for reading a unit."""
        return self.records(stream, file.layout, start)

    @abstractmethod
    def values(self, records: Sequence[Record], file: FileSpec) -> Mapping[str, Sequence[Any]]:
        """The values of each column, by the file's names; one for each record."""

    def arrangement(self, head: bytes, options: ScanOptions, uri: str) -> Arrangement | None:
        """How the rows are arranged in a file; None where its lines are its records.

        Args:
            head: the first bytes of its text.
            options: the survey's options.
            uri: the file, for messages.

        Raises:
            UserError: the rows are arranged in a way that cannot be read.
        """
        del head, options, uri
        return None

    def scan(self, file: SourceFile, options: ScanOptions, limit: int | None) -> FileFacts:
        """See `Format.scan`. One pass over the file both hashes and parses it."""
        recode = None if _has_plain_lines(options.encoding) else options.encoding
        uri, content = file.uri, None
        converted = bool(file.compression or recode)
        head = _head_of_text(file, recode) if converted else head_of(uri)
        arrangement = self.arrangement(head, options, uri)
        if converted or arrangement:
            content = content_hash(uri)
            uri = self._staged(file, content, recode, options.scratch, arrangement)
            head = head_of(uri)
        check_text(head, self.expected, file.uri)
        marks = Marks(options.unit_rows or DEFAULT_UNIT_ROWS, may_grow=options.unit_rows is None)
        encoding = "utf-8" if recode else options.encoding
        with open_binary(uri) as raw:
            hashing = HashingReader(raw)
            stream = cast(BinaryIO, io.BufferedReader(hashing, WHOLE_FILE_BUFFER))
            scan = TextScan(file.uri, head, stream, encoding, options, limit, marks)
            facts = self.scan_text(scan)
            hashed = hashing.finish()
            return FileFacts(
                rows=scan.rows, malformed=scan.malformed, columns=facts.columns,
                chosen=facts.chosen, content=content or hashed, uri=uri, size=raw.tell(),
                layout=facts.layout, marks=marks,
                notes=(*(arrangement.notes if arrangement else ()), *facts.notes),
                why_unreadable=scan.why_unreadable(),
            )  # fmt: skip

    def read(self, unit: Unit, file: FileSpec) -> Cells:
        """See `Format.read`."""
        with open_binary(unit.uri, UNIT_BUFFER) as stream:
            if (size := size_of(stream)) != file.size:
                raise file.changed(f"{size} bytes where there were {file.size}")
            stream.seek(unit.offset)
            records = list(islice(self.unit_records(stream, unit.offset, file), unit.rows))
        cells = Cells(self.values(records, file), len(records))
        for row, record in enumerate(records):
            if record.fault is not None:
                cells.faults[row] = record.fault
                cells.raw[row] = record.raw or ""
        return cells

    def _staged(
        self,
        file: SourceFile,
        content: str,
        recode: str | None,
        scratch: str,
        arrangement: Arrangement | None,
    ) -> str:
        """URI of a copy: decompressed, in UTF-8 where ``recode`` is an encoding, by lines."""
        suffix = (f"-{recode}" if recode else "") + (arrangement.suffix if arrangement else "")
        uri = staged_uri(scratch, f"{content}{suffix}.{self.name}")
        if is_there(uri):
            return uri
        with publish(uri) as out:
            chunks = _plain_chunks(file, recode)
            for chunk in arrangement.lines(chunks) if arrangement else chunks:
                out.write(chunk)
        return uri


@dataclass
class TextScan:
    """A text file that is being read once, from start to end."""

    #: The original, for messages.
    uri: str
    #: The first bytes of the file, at most 1 MiB.
    head: bytes
    #: The open file at its start; it cannot seek.
    stream: BinaryIO
    encoding: str
    options: ScanOptions
    limit: int | None
    marks: Marks
    rows: int = 0
    malformed: int = 0
    #: The first malformed record, and whether all of them are undecodable.
    first: Record | None = None
    all_undecodable: bool = True

    def skip(self, size: int) -> BinaryIO:
        """Skip the first ``size`` bytes; returns the stream."""
        self.stream.read(size)
        return self.stream

    def count(self, records: Iterator[Record]) -> None:
        """Count the records up to the limit, and record where units can begin."""
        marks = self.marks
        rows = malformed = 0
        for record in islice(records, self.limit):
            if rows % marks.step == 0:
                marks.add(record.start)
            rows += 1
            if record.fault:
                malformed += 1
                self.first = self.first or record
                self.all_undecodable &= record.fault.startswith("source:undecodable")
        self.rows, self.malformed = rows, malformed

    def why_unreadable(self) -> str | None:
        """Why no record can be read, and how to fix it; None if some can."""
        if not self.rows or self.malformed < self.rows or self.first is None:
            return None
        which = "the only row" if self.rows == 1 else f"all {self.rows:,} rows"
        # The code of a reason, as in "source:quotes: ...", adds nothing to the text after it.
        problem = (self.first.fault or "").partition(": ")[2]
        message = (
            f"source {self.uri}: no row in it can be read, {which} would fail; row 1: cannot be "
            f"read: {problem}"
        )
        if not self.all_undecodable:
            return f"{message}. Fix the file, or write it again"
        line = self.head[self.first.start :].partition(b"\n")[0]
        return f"{message}. {how_to_decode(self.head, line)}"


def known_encoding(name: str) -> str:
    """Python's own name of a text encoding.

    Raises:
        UserError: Python has no such encoding.
    """
    try:
        codec = codecs.lookup(name)
        "\n".encode(codec.name)
    except (LookupError, TypeError):
        raise UserError(
            f"source.encoding: unknown text encoding {name!r}; known are utf-8, utf-16, latin-1, "
            "cp1252, shift_jis, gb18030 and Python's others"
        ) from None
    return "utf-8" if codec.name in ("utf-8", "utf-8-sig") else codec.name


def _has_plain_lines(encoding: str) -> bool:
    """Whether a line end is the byte 10, and no other character contains that byte."""
    return "a,\n".encode(encoding) == b"a,\n"


def line_reader(stream: BinaryIO) -> tuple[Callable[[], bytes], int]:
    """A function that reads the next line, or the beginning of a longer one; and its size then."""
    return partial(stream.readline, LONGEST_LINE), LONGEST_LINE


def skip_rest(line: bytes, stream: BinaryIO) -> int:
    """Read on to the end of a line, holding little of it; returns the number of bytes.

    Args:
        line: its beginning, from `line_reader`; may be all of it.
        stream: is after that.
    """
    skipped = 0
    while not line.endswith(b"\n") and (line := stream.readline(_CHUNK)):
        skipped += len(line)
    return skipped


def too_long(size: int) -> str:
    """The fault of a record with a line that is too long.

    Args:
        size: of the line, in bytes.
    """
    return (
        f"source:too_long: a line of {size:,} bytes, {LONGEST_LINE:,} are read at most: split the "
        "value, or write the rows as Parquet"
    )


def beginning(line: bytes) -> str:
    """What a row keeps of a line that is too long."""
    return line[:_KEPT].decode("utf-8", "replace") + "…"


# Plain copies


def _plain_chunks(file: SourceFile, recode: str | None) -> Generator[bytes, None, None]:
    """The text of a file: decompressed, and in UTF-8 where ``recode`` is its encoding."""
    with open_binary(file.uri) as raw:
        chunks = _decompressed(raw, file)
        yield from _recoded(chunks, recode, file.uri) if recode else chunks


def _head_of_text(file: SourceFile, recode: str | None) -> bytes:
    head = b""
    with contextlib.closing(_plain_chunks(file, recode)) as chunks:
        for chunk in chunks:
            head += chunk
            if len(head) >= _CHUNK:
                break
    return head[:_CHUNK]


def _decompressed(raw: BinaryIO, file: SourceFile) -> Iterator[bytes]:
    if not file.compression:
        with readable(file.uri):
            yield from iter(lambda: raw.read(_CHUNK), b"")
        return
    try:
        allowed = max(_ALWAYS_ALLOWED, _MOST_EXPANSION * (packed := size_of(raw)))
        stream = pa.CompressedInputStream(cast(Any, raw), cast(Any, file.compression))
        size = 0
        while chunk := stream.read(_CHUNK):
            if (size := size + len(chunk)) > allowed:
                raise UserError(
                    f"source {file.uri}: {packed:,} bytes of {file.compression} data hold more "
                    f"than {allowed:,} bytes: no more is decompressed, because such a file may "
                    "fill the disk. If it is right, decompress it yourself and name the result"
                )
            yield chunk
    except OSError as error:
        raise UserError(
            f"source {file.uri}: expected {file.compression} data as its name says, found "
            f"something else or a cut file: {error}"
        ) from None


def _recoded(chunks: Iterable[bytes], encoding: str, uri: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for chunk in chunks:
            yield decoder.decode(chunk).encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError as error:
        raise UserError(f"source {uri}: expected text in {encoding}, found: {error}") from None
