"""Checksums of Parquet and JSON files, kept in the files: every byte that is read is verified.

A Parquet file is ``pages | block | footer``. The block holds a checksum of each column chunk, and
one of itself and the footer. Parquet's readers find pages by the offsets in the footer: the block
is invisible to them, and one read of the file's end brings both. Parquet's own checksums leave out
the footer, where flipped bits give other rows.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from ray_pipeline.core.errors import RunError, in_one_line

#: Files up to this many bytes are read whole, and this much of the end of larger ones: the footer
#: is nearly always in it, so that a small file costs one request to object storage.
READ_AT_ONCE = 64 * 1024
#: Bytes that are read although nobody wants them, to save a request.
_HOLE = 1024 * 1024
#: Bytes in memory at a time while a whole file is verified.
_PIECE = 8 * 1024 * 1024

_CHECKSUM = "checksum"
_MAGIC = b"PAR1"
_MARK = b"rp:sums1"
#: A stretch of the file: where it starts, and the checksum of its bytes up to the next one.
_STRETCH = struct.Struct("<QQ")
_SEAL_BYTES = 16
_COUNT = struct.Struct("<I")
#: Bytes of the block after the stretches.
_BLOCK_END = _SEAL_BYTES + _COUNT.size + len(_MARK)


class Damaged(Exception):
    """A file is not what was written. The message says how that shows, without the file's name."""


class DamagedFile(RunError):
    """A file of a run is gone, or is not what was written.

    Args:
        message: names the file, says what is wrong and what to do.
        how: what is wrong, without the name of the file.
    """

    def __init__(self, message: str, how: str = "") -> None:
        super().__init__(message, how)
        self.how = how

    def __str__(self) -> str:
        return str(self.args[0])


def json_with_checksum(data: Mapping[str, Any]) -> bytes:
    """A JSON object with a checksum of its content as its last key."""
    plain = orjson.loads(orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY))
    whole = {**plain, _CHECKSUM: _json_digest(plain)}
    return orjson.dumps(whole, option=orjson.OPT_INDENT_2)


def checked_json(raw: bytes) -> dict[str, Any]:
    """The inverse of `json_with_checksum`; objects of earlier versions have no checksum.

    Raises:
        Damaged: it is not what was written, or not a JSON object.
    """
    if not raw.strip():
        raise Damaged("it is empty")
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Damaged(f"it is not JSON: {_words(error)}") from error
    if not isinstance(data, dict):
        raise Damaged("it is not a JSON object")
    written = data.pop(_CHECKSUM, None)
    if written is not None and written != _json_digest(data):
        raise Damaged("it has another checksum than when it was written")
    return data


def _json_digest(data: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(orjson.dumps(data, option=orjson.OPT_SORT_KEYS))


def with_checksums(parquet: pa.Buffer) -> bytes:
    """A Parquet file with a block of checksums in front of its footer."""
    data = memoryview(parquet)
    footer = _footer_start(data, len(data))
    starts = _starts(pq.read_metadata(pa.BufferReader(parquet)))
    bounds = pairwise([*starts, footer])
    stretches = b"".join(
        _STRETCH.pack(start, xxhash.xxh3_64_intdigest(data[start:end])) for start, end in bounds
    )
    block = stretches + _COUNT.pack(len(starts))
    seal = xxhash.xxh3_128_digest(block + bytes(data[footer:]))
    block = stretches + seal + _COUNT.pack(len(starts)) + _MARK
    return b"".join((data[:footer], block, data[footer:]))


def _starts(metadata: pq.FileMetaData) -> list[int]:
    """Where each column chunk starts; the first stretch begins with the file."""
    chunks = (
        _chunk_start(metadata, group, column)
        for group in range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
    )
    return [0, *sorted(chunks)[1:]]


def _chunk_start(metadata: pq.FileMetaData, group: int, column: int) -> int:
    chunk = metadata.row_group(group).column(column)
    start: int = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        start = min(start, chunk.dictionary_page_offset)
    return start


def _footer_start(end: memoryview | bytes, size: int) -> int:
    """Where the footer of a file of ``size`` bytes starts, from the last bytes of the file."""
    if size == 0:
        raise Damaged("it is empty")
    if size < 12 or bytes(end[-4:]) != _MAGIC:
        raise Damaged("its end is missing or is not that of a Parquet file")
    (length,) = _COUNT.unpack(end[-8:-4])
    if length > size - 12:
        raise Damaged("the length of its footer is wrong")
    return size - 8 - int(length)


class CheckedFile:
    """A Parquet file whose bytes are verified when they are read.

    Files of earlier versions have no checksums, and are read as they are.

    Args:
        file: the open file.

    Attributes:
        metadata: the footer.
        has_checksums: whether there are checksums to verify.
        whole: all bytes of a small file; None for a large one.

    Raises:
        Damaged: the file is not what was written.
        OSError: it cannot be read.
    """

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file
        self._size: int = file.size()
        end = file.read_at(min(self._size, READ_AT_ONCE), max(0, self._size - READ_AT_ONCE))
        self.whole: bytes | None = end if len(end) == self._size else None
        footer = _footer_start(end, self._size)
        end = self._from(footer - _BLOCK_END, end)
        self.has_checksums = self._piece(end, footer - len(_MARK), len(_MARK)) == _MARK
        self._stretches: list[tuple[int, int]] = []
        self._pages_end = footer
        if self.has_checksums:
            self._read_block(footer, end)
        self.metadata = _metadata(end)
        if self.whole is not None:
            self.verify()  # the bytes are there

    def _from(self, start: int, end: bytes) -> bytes:
        """The end of the file from a position on, of which ``end`` is known."""
        known = self._size - len(end)
        start = max(0, start)
        return end if start >= known else self._file.read_at(known - start, start) + end

    def _piece(self, end: bytes, start: int, length: int) -> bytes:
        at = start - (self._size - len(end))
        return end[at : at + length] if at >= 0 else b""

    def _read_block(self, footer: int, end: bytes) -> None:
        (count,) = _COUNT.unpack(self._piece(end, footer - len(_MARK) - _COUNT.size, _COUNT.size))
        start = footer - _BLOCK_END - count * _STRETCH.size
        if start < 0:
            raise Damaged("its checksums do not fit its footer")
        end = self._from(start, end)
        stretches = self._piece(end, start, count * _STRETCH.size)
        seal = self._piece(end, footer - _BLOCK_END, _SEAL_BYTES)
        block = stretches + _COUNT.pack(count)
        if xxhash.xxh3_128_digest(block + self._piece(end, footer, len(end))) != seal:
            raise Damaged("its footer has another checksum than when it was written")
        self._stretches = list(_STRETCH.iter_unpack(stretches))
        self._pages_end = start

    def read(self, columns: Sequence[str]) -> pa.Table:
        """All rows of some top-level columns, in this order.

        Raises:
            Damaged: their bytes are not what was written.
            OSError: the file cannot be read.
        """
        parquet = self._reader(columns)
        try:
            table = parquet.read(list(columns)).replace_schema_metadata(None)
            return table.select(list(columns))
        except OSError as error:
            if not self.has_checksums and self.whole is None and not _is_of_parquet(error):
                raise
            raise Damaged(f"its pages cannot be read: {_words(error)}") from error
        except Exception as error:  # of any kind: in a file without checksums, pages hold anything
            raise Damaged(f"its pages cannot be read: {_words(error)}") from error

    def _reader(self, columns: Sequence[str]) -> pq.ParquetFile:
        """A reader of some columns alone, whose bytes are read and verified."""
        if not self.has_checksums:
            source = self._file if self.whole is None else pa.BufferReader(self.whole)
            return pq.ParquetFile(source, metadata=self.metadata, pre_buffer=True)
        wanted = self._stretches_of(columns)
        pages = self._everything() if self._is_most(wanted) else self._only(wanted)
        for number in wanted:
            start, end = self._bounds(number)
            self._compare(number, xxhash.xxh3_64_intdigest(pages[start:end]))
        source = pa.BufferReader(pa.py_buffer(pages))
        return pq.ParquetFile(source, metadata=self.metadata, pre_buffer=True)

    def verify(self) -> None:
        """Read and verify the whole file, a bounded number of bytes at a time.

        Raises:
            Damaged: it is not what was written.
            OSError: it cannot be read.
        """
        for number in range(len(self._stretches)):
            start, end = self._bounds(number)
            digest = xxhash.xxh3_64()
            for at in range(start, end, _PIECE):
                length = min(_PIECE, end - at)
                digest.update(
                    self._file.read_at(length, at)
                    if self.whole is None
                    else memoryview(self.whole)[at : at + length]
                )
            self._compare(number, digest.intdigest())

    def _bounds(self, number: int) -> tuple[int, int]:
        last = number + 1 == len(self._stretches)
        end = self._pages_end if last else self._stretches[number + 1][0]
        return self._stretches[number][0], end

    def _compare(self, number: int, digest: int) -> None:
        if digest != self._stretches[number][1]:
            start, end = self._bounds(number)
            raise Damaged(f"bytes {start} to {end} have another checksum than when written")

    def _stretches_of(self, columns: Sequence[str]) -> list[int]:
        names = set(columns)
        starts = [start for start, _ in self._stretches]
        numbers = set()
        for column in range(self.metadata.num_columns):
            path = self.metadata.schema.column(column).path
            # A name may contain dots, as the path of a nested column does.
            if path in names or any(path.startswith(f"{name}.") for name in names):
                for group in range(self.metadata.num_row_groups):
                    start = _chunk_start(self.metadata, group, column)
                    numbers.add(bisect_right(starts, start) - 1)
        return sorted(numbers)

    def _is_most(self, wanted: Sequence[int]) -> bool:
        """Whether a single read of all pages costs little more than one of the wanted ones."""
        if self.whole is not None:
            return True
        sizes = (end - start for start, end in map(self._bounds, wanted))
        return self._pages_end - sum(sizes) <= _HOLE

    def _everything(self) -> memoryview:
        if self.whole is not None:
            return memoryview(self.whole)
        return memoryview(self._file.read_at(self._pages_end, 0))

    def _only(self, wanted: Iterable[int]) -> memoryview:
        """The wanted stretches at their places; the rest of the memory is never touched."""
        pages = np.empty(self._pages_end, np.uint8)
        ranges: list[list[int]] = []
        for start, end in map(self._bounds, wanted):
            if ranges and start - ranges[-1][1] <= _HOLE:
                ranges[-1][1] = end
            else:
                ranges.append([start, end])
        for start, end in ranges:
            read = self._file.read_at(end - start, start)
            pages[start : start + len(read)] = np.frombuffer(read, np.uint8)
        return memoryview(pages.data)


def _metadata(end: bytes) -> pq.FileMetaData:
    try:
        return pq.read_metadata(pa.BufferReader(end))
    except Exception as error:  # of any kind: the bytes may be anything
        raise Damaged(f"its footer cannot be read: {_words(error)}") from error


def _is_of_parquet(error: OSError) -> bool:
    """Whether pages could be read and not be decoded: storage's own errors have a number."""
    return error.errno is None and "AWS" not in str(error)


def _words(error: Exception) -> str:
    return in_one_line(error, 200)
