"""Copies of files that cannot be entered in the middle: decompressed, as lines, as small groups.

A copy is named by the hash of its original's content, so that the next run finds it again, and
appears under its name only when it is whole.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.sources.files import SourceFile, locate, open_binary, readable

_CHUNK = 1 << 20


def staged_uri(scratch: str, name: str) -> str:
    """URI of a staged file; of a local one the absolute path, since workers start elsewhere."""
    uri = f"{scratch.rstrip('/')}/{name}"
    fs, path = locate(uri)
    return path if isinstance(fs, pafs.LocalFileSystem) else uri


def is_there(uri: str) -> bool:
    """Whether a file was staged before."""
    fs, path = locate(uri)
    return bool(fs.get_file_info(path).is_file)


@contextmanager
def publish(uri: str) -> Iterator[BinaryIO]:
    """A stream whose content appears under ``uri`` at the end, and not at all after an error.

    Raises:
        RunError: it cannot be written.
    """
    fs, path = locate(uri)
    try:
        if isinstance(fs, pafs.LocalFileSystem):
            with _renamed_at_the_end(Path(path)) as stream:
                yield stream
            return
        # An object appears when its upload is completed: a killed process leaves none.
        with fs.open_output_stream(path) as remote:
            try:
                yield cast(BinaryIO, remote)
            except BaseException:
                remote.close()
                fs.delete_file(path)
                raise
    except OSError as error:
        raise RunError(f"cannot write {uri}: {error}") from error


@contextmanager
def _renamed_at_the_end(path: Path) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb", buffering=_CHUNK) as stream:
            yield stream
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def stage_text(file: SourceFile, content: str, encoding: str | None, scratch: str) -> str:
    """Stage a text file as plain lines: decompressed, an array as JSON lines, one-byte line ends.

    Args:
        file: the original.
        content: hash of its bytes.
        encoding: what to recode to UTF-8 from; None: the bytes stay as they are.
        scratch: folder URI.

    Returns: the URI of the copy.

    Raises:
        UserError: the original is cut, not compressed as its name says, not in the encoding, or
            an array that is not JSON.
    """
    recoded = f"-{encoding}" if encoding else ""
    extension = "csv" if file.format == "csv" else "jsonl"
    uri = staged_uri(scratch, f"{content}{recoded}.{extension}")
    if is_there(uri):
        return uri
    with open_binary(file.uri) as raw, publish(uri) as out:
        chunks = _decompressed(raw, file)
        if encoding:
            chunks = _recoded(chunks, encoding, file.uri)
        if file.format == "json":
            chunks = _lines_of_array(chunks, file.uri)
        for chunk in chunks:
            out.write(chunk)
    return uri


def _decompressed(raw: BinaryIO, file: SourceFile) -> Iterator[bytes]:
    if not file.compression:
        with readable(file.uri):
            yield from iter(lambda: raw.read(_CHUNK), b"")
        return
    try:
        stream = pa.CompressedInputStream(cast(Any, raw), cast(Any, file.compression))
        while chunk := stream.read(_CHUNK):
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


def starts_array(head: bytes) -> bool:
    """Whether JSON text is one array rather than lines of objects."""
    return head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["


def _lines_of_array(chunks: Iterable[bytes], uri: str) -> Iterator[bytes]:
    """The elements of a JSON array, one a line; other JSON goes through as it is."""
    chunks = iter(chunks)
    head = b""
    for chunk in chunks:
        head += chunk
        if head.strip():
            break
    if not starts_array(head):
        yield head
        yield from chunks
        return
    array = _ArrayText(head.removeprefix(codecs.BOM_UTF8), chunks)
    try:
        for element in array.elements():
            # In JSON a line end can only stand between tokens, where a space says the same.
            line = element.replace("\n", " ").replace("\r", " ")
            yield line.encode("utf-8", "surrogateescape") + b"\n"
    except ValueError as error:
        raise UserError(
            f"source {uri}: expected a JSON array of objects, found after {array.count} "
            f"elements: {error}. Mend the file, or write one object a line (.jsonl)"
        ) from None


class _ArrayText:
    """Cuts the text of a JSON array into its elements, with one of them in memory at a time.

    Raises:
        ValueError: it is not JSON.
    """

    _SPACE = re.compile(r"[ \t\r\n]*")
    _AFTER_ELEMENT = re.compile(r"[ \t\r\n]*[,\]]")
    _LONGEST_ELEMENT = 256 << 20

    def __init__(self, head: bytes, chunks: Iterator[bytes]) -> None:
        # Undecodable bytes go through to the lines, where they fail their own row only.
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._chunks = chunks
        self._text = self._decode(head)
        self._at = 0
        self._ended = False
        #: Elements found so far.
        self.count = 0

    def elements(self) -> Iterator[str]:
        """The text of each element."""
        self._take()
        if self._next() == "]":
            self._take()
        else:
            mark = ","
            while mark == ",":
                yield self._element()
                self.count += 1
                mark = self._take()
        if left := self._next():
            raise ValueError(f"{left!r} after the end of the array")

    def _take(self) -> str:
        mark = self._next()
        self._at += 1
        return mark

    def _next(self) -> str:
        """The next character that is not space; empty at the end."""
        while True:
            self._at = cast(re.Match[str], self._SPACE.match(self._text, self._at)).end()
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._read_on()

    def _element(self) -> str:
        self._next()
        while True:
            try:
                _, end = _scan_json(self._text, self._at)
                problem = "no ',' or ']' after an element"
                if self._AFTER_ELEMENT.match(self._text, end):
                    element = self._text[self._at : end]
                    self._at = end
                    return element
            except (ValueError, RecursionError) as error:
                problem = str(error)
            # The text may end within the element: scan it again when there is more of it.
            if self._ended or len(self._text) - self._at > self._LONGEST_ELEMENT:
                raise ValueError(problem)
            self._read_on()

    def _read_on(self) -> None:
        """Forget what was used, and read as much again as is left: scans stay linear."""
        self._text = self._text[self._at :]
        self._at = 0
        more = b""
        while len(more) < max(_CHUNK, len(self._text)) and not self._ended:
            chunk = next(self._chunks, b"")
            self._ended = not chunk
            more += chunk
        self._text += self._decode(more, final=self._ended)


_scan_json = json.JSONDecoder().raw_decode


def stage_groups(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, name: str, rows: int, scratch: str
) -> str:
    """Stage a table as Parquet with ``rows`` rows a row group, so that a unit reads its own only.

    Args:
        batches: the rows in order, in batches of any size.
        schema: of the batches.
        name: hash of the original's content.
        rows: rows of a group, the rows of a unit.
        scratch: folder URI.

    Returns: the URI of the copy.
    """
    uri = staged_uri(scratch, f"{name}-{rows}.parquet")
    if is_there(uri):
        return uri
    # Statistics are of no use here, and stay in memory for every group until the file is closed.
    options = {"write_statistics": False}
    with publish(uri) as out, pq.ParquetWriter(cast(Any, out), schema, **options) as writer:
        for group in _regrouped(batches, schema, rows):
            writer.write_table(group, row_group_size=rows)
    return uri


def _regrouped(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, rows: int
) -> Iterator[pa.Table]:
    waiting = schema.empty_table()
    for batch in batches:
        waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch], schema)])
        while waiting.num_rows >= rows:
            yield waiting.slice(0, rows)
            waiting = waiting.slice(rows)
    if waiting.num_rows:
        yield waiting
