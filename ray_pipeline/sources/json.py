"""JSON: one object per line, or one array of objects; a malformed line is a failed row."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, BinaryIO, cast

import orjson

from ray_pipeline.core.errors import UserError
from ray_pipeline.sources.columns import Column
from ray_pipeline.sources.format import FileSpec, ScanOptions
from ray_pipeline.sources.json_object import (
    RowsUnderKey,
    check_after_rows,
    pandas_form,
    rows_in_object,
)
from ray_pipeline.sources.text import (
    Arrangement,
    Record,
    TextFacts,
    TextFormat,
    TextScan,
    beginning,
    line_reader,
    skip_rest,
    too_long,
)
from ray_pipeline.sources.written import (
    EXACT_IN_DOUBLE,
    LosslessFloat,
    Written,
    cells_as_written,
    floats_are_exact,
    kind_of,
    parse_exactly,
    repeated_key,
    values_as_written,
)

#: Types of values whose kind is the same for all values.
_SIMPLE = frozenset((str, bool, list, dict, type(None)))
#: Types of values whose kind is at least this one.
_CERTAIN = {int: int, LosslessFloat: float}
_SHAPES_KEPT = 10_000
#: Integers up to here are of the kind ``int``.
_EXACT = EXACT_IN_DOUBLE
#: Lines after which their numbers are checked, together because one by one is six times slower.
_CHECKED_TOGETHER = 4_096
_SHOWN = 80
#: Maximum number of lines that a note about a file lists.
_LINES_SHOWN = 3
_CHUNK = 1 << 20


class JsonLines(TextFormat):
    """JSON Lines: one JSON object per line."""

    name = "jsonl"
    expected = "JSON lines"

    def scan_text(self, scan: TextScan) -> TextFacts:
        """Read all objects, because together they define the columns."""
        start = len(codecs.BOM_UTF8) if scan.head.startswith(codecs.BOM_UTF8) else 0
        seen = _ColumnsSeen()
        scan.count(seen.watch(scan.skip(start), scan.encoding, start))
        if not seen.objects:
            raise UserError(
                f"source {scan.uri}: expected JSON lines (one object a line), and none of its "
                f"{scan.rows} lines is an object with columns; the first: "
                f"{seen.first_fault or 'empty'}. {self._fix(seen)}"
            )
        columns = seen.columns()
        chosen = scan.options.choose(list(columns), columns, self, scan.uri)
        return TextFacts(columns, chosen, scan.encoding, tuple(seen.notes(scan.uri)))

    def _fix(self, seen: _ColumnsSeen) -> str:
        """How to fix a file without an object."""
        return "A file that holds one array is named .json"

    def unit_records(self, stream: BinaryIO, start: int, file: FileSpec) -> Iterator[Record]:
        """See `TextFormat.unit_records`. Values of ``file.as_written`` are text or `Written`."""
        if not file.as_written:
            return self.records(stream, file.layout, start)
        return _records_as_written(stream, file.layout, start, file.as_written)

    def records(self, stream: BinaryIO, layout: str, start: int) -> Iterator[Record]:
        """The records, without blank lines; ``cells`` is the line's object, empty if malformed."""
        loads = orjson.loads
        is_utf8 = layout == "utf-8"
        read, longest = line_reader(stream)
        for line in iter(read, b""):
            record = None
            if len(line) == longest and (rest := skip_rest(line, stream)):
                yield _long_record(start, line, rest)
                start += len(line) + rest
                continue
            if is_utf8:
                try:
                    cells = loads(line)
                except orjson.JSONDecodeError:
                    pass
                else:
                    if type(cells) is dict:
                        record = Record(start, cells)
            if record is None and not line.isspace():
                record = _odd_record(start, line, layout)
            if record is not None:
                yield record
            start += len(line)

    def values(self, records: Sequence[Record], file: FileSpec) -> Mapping[str, Sequence[Any]]:
        """See `TextFormat.values`."""
        return {
            own: [record.cells.get(own) for record in records] for own in set(file.columns.values())
        }


class Json(JsonLines):
    """JSON Lines, one array of objects, or one object with such an array under one of its keys.

    An array is read from a copy as JSON Lines.
    """

    def arrangement(self, head: bytes, options: ScanOptions, uri: str) -> Arrangement | None:
        """See `TextFormat.arrangement`."""
        if _starts_array(head):
            return Arrangement("", partial(_lines_of_array, uri=uri))
        rows = rows_in_object(head, options.own_names(), uri)
        if rows is None:
            return None
        note = f"{uri}: one object; its rows are the list under the key {rows.key!r}"
        suffix = f"-{hashlib.sha256(rows.key.encode(errors='replace')).hexdigest()[:16]}"
        return Arrangement(suffix, partial(_lines_under_key, rows=rows, uri=uri), (note,))

    def _fix(self, seen: _ColumnsSeen) -> str:
        if "found [" not in (seen.first_fault or ""):
            return super()._fix(seen)
        return f"Lists in place of rows are {pandas_form('values')}"


def _record(start: int, line: bytes, encoding: str) -> Record | None:
    """The record of one line, as `JsonLines.records` returns it; None for a blank line."""
    if encoding == "utf-8":
        try:
            cells = orjson.loads(line)
        except orjson.JSONDecodeError:
            pass
        else:
            if type(cells) is dict:
                return Record(start, cells)
    return None if line.isspace() else _odd_record(start, line, encoding)


def _records_as_written(
    stream: BinaryIO, encoding: str, start: int, names: Collection[str]
) -> Iterator[Record]:
    is_utf8 = encoding == "utf-8"
    read, longest = line_reader(stream)
    for line in iter(read, b""):
        if len(line) == longest and (rest := skip_rest(line, stream)):
            yield _long_record(start, line, rest)
            start += len(line) + rest
            continue
        cells = cells_as_written(line, names) if is_utf8 else None
        record = Record(start, cells) if cells is not None else _record(start, line, encoding)
        if record is not None:
            if record.cells and cells is None:
                text = line.decode(encoding, "replace")
                record.cells.update(values_as_written(text, names))
            yield record
        start += len(line)


def _long_record(start: int, line: bytes, rest: int) -> Record:
    return Record(start, {}, too_long(len(line) + rest), beginning(line))


def _odd_record(start: int, line: bytes, encoding: str) -> Record:
    """The record of a line that orjson does not parse to an object.

    It may still be valid for Python's parser, which accepts NaN and Infinity.
    """
    raw = line.decode(encoding, "replace").rstrip("\r\n")
    fault = None
    try:
        line.decode(encoding)
    except UnicodeDecodeError as error:
        byte = line[error.start]
        fault = f"source:undecodable: byte 0x{byte:02x} at {error.start} is not {encoding}"
    try:
        # Python's own parser accepts what Python writes: NaN and Infinity.
        cells = json.loads(raw, parse_int=_integer)
        # Raises for half a surrogate pair, which is not valid text.
        json.dumps(cells, ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        problem = str(error) or type(error).__name__
        return Record(start, {}, fault or f"source:json: {problem}", raw)
    if not isinstance(cells, dict):
        shown = raw if len(raw) <= _SHOWN else raw[:_SHOWN] + "…"
        return Record(start, {}, fault or f"source:not_an_object: found {shown}", raw)
    return Record(start, cells, fault, raw if fault else None)


def _integer(digits: str) -> int | Written:
    # Python refuses to convert integers of more than 4,300 digits.
    return int(digits) if len(digits) < 4_000 else Written(digits)


class _ColumnsSeen:
    """Collects the columns of a file, in order of appearance, and the kinds of their values."""

    def __init__(self) -> None:
        self._types: defaultdict[str, set[Any]] = defaultdict(set)
        #: Keys and types of the lines so far -> the keys of `_add_shape`.
        self._shapes: dict[tuple[Any, ...], list[str]] = {}
        #: Kinds of the values whose type alone does not say it.
        self._kinds: defaultdict[str, set[str | None]] = defaultdict(set)
        #: Numbers with a fraction or an exponent that have not been checked yet.
        self._floats: defaultdict[str, list[LosslessFloat]] = defaultdict(list)
        #: Keys that are twice in an object, each with the numbers of the lines.
        self._repeated: defaultdict[str, list[int]] = defaultdict(list)
        #: Number of records with at least one value.
        self.objects = 0
        self.first_fault: str | None = None

    def watch(self, stream: BinaryIO, encoding: str, start: int) -> Iterator[Record]:
        """Yield the records of `JsonLines.records`, and note their columns.

        Their values are those of `parse_exactly`, or `Written`.
        """
        shapes, kinds, floats = self._shapes, self._kinds, self._floats
        is_utf8 = encoding == "utf-8"
        read, longest = line_reader(stream)
        for number, line in enumerate(iter(read, b""), 1):
            if len(line) == longest and (rest := skip_rest(line, stream)):
                long = _long_record(start, line, rest)
                self.first_fault = self.first_fault or long.fault
                yield long
                start += len(line) + rest
                continue
            record = None
            try:
                cells = parse_exactly(line if is_utf8 else line.decode(encoding).encode())
            except ValueError:
                record = self._parsed_again(start, line, encoding, number)
            else:
                record = Record(start, cells) if type(cells) is dict else None
                if record is None:
                    record = _odd_record(start, line, encoding)
            if record is not None:
                if record.fault:
                    self.first_fault = self.first_fault or record.fault
                if record.cells:
                    self.objects += 1
                cells = record.cells
                # Lines have few shapes, so most values cost no step of their own here.
                shape = (*cells, *map(type, cells.values()))
                uncertain = shapes.get(shape)
                if uncertain is None:
                    uncertain = self._add_shape(shape, cells)
                for name in uncertain:
                    value = cells[name]
                    kind = type(value)
                    if kind is LosslessFloat:
                        floats[name].append(value)
                    elif kind is not int or not -_EXACT <= value <= _EXACT:
                        kinds[name].add(kind_of(value))
                yield record
            start += len(line)
            if number % _CHECKED_TOGETHER == 0:
                self._check_floats()

    def _add_shape(self, shape: tuple[Any, ...], cells: Mapping[str, Any]) -> list[str]:
        """Note a line's columns and types; returns those whose kind depends on the value."""
        uncertain = []
        for name, value in cells.items():
            kind = type(value)
            self._types[name].add(kind if kind in _SIMPLE else _CERTAIN.get(kind, type(None)))
            if kind not in _SIMPLE:
                uncertain.append(name)
        if len(self._shapes) < _SHAPES_KEPT:
            self._shapes[shape] = uncertain
        return uncertain

    def _check_floats(self) -> None:
        """Note the columns in which a number so far has a value that no double has."""
        for name, values in self._floats.items():
            if not floats_are_exact(values):
                self._kinds[name].add("long")
        self._floats.clear()

    def _parsed_again(self, start: int, line: bytes, encoding: str, number: int) -> Record | None:
        """The record of a line that `parse_exactly` refuses; a key that it has twice is noted."""
        record = _record(start, line, encoding)
        if record is None or not record.cells:
            return record
        text = line.decode(encoding, "replace")
        key = repeated_key(text)
        if key is not None:
            self._repeated[key].append(number)
        return record._replace(cells=values_as_written(text, record.cells))

    def columns(self) -> dict[str, Column]:
        """The columns by the file's names."""
        self._check_floats()
        found = {}
        for name, types in self._types.items():
            kinds = self._kinds[name] | {kind_of(type_()) for type_ in types - {type(None)}}
            found[name] = Column(frozenset(kind for kind in kinds if kind is not None))
        return found

    def notes(self, uri: str) -> Iterator[str]:
        """What the user should know of the file."""
        for key, lines in self._repeated.items():
            shown = ", ".join(map(str, lines[:_LINES_SHOWN]))
            more = f" and {len(lines) - _LINES_SHOWN:,} more" * (len(lines) > _LINES_SHOWN)
            where = "line" if len(lines) == 1 else "lines"
            yield (
                f"{uri}: {where} {shown}{more}: the key {key!r} is there more than once in an "
                "object; its last value counts"
            )


# Arrays


def _starts_array(head: bytes) -> bool:
    """Whether JSON text is one array rather than lines of objects."""
    return head.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["


def _lines_of_array(chunks: Iterable[bytes], uri: str) -> Iterator[bytes]:
    """The elements of a JSON array, one per line; other JSON is passed through unchanged."""
    chunks = iter(chunks)
    head = b""
    for chunk in chunks:
        head += chunk
        if head.strip():
            break
    if not _starts_array(head):
        yield head
        yield from chunks
        return
    array = _ArrayText(head.removeprefix(codecs.BOM_UTF8), chunks)
    yield from _lines(array, uri)
    if trailing := array.rest(1):
        raise _no_array(uri, array, f"{trailing!r} after the end of the array")


def _lines_under_key(chunks: Iterable[bytes], rows: RowsUnderKey, uri: str) -> Iterator[bytes]:
    """The elements of the array under a key of a JSON object, one per line."""
    chunks = iter(chunks)
    head = next(chunks, b"").removeprefix(codecs.BOM_UTF8)
    while len(head) <= rows.offset and (chunk := next(chunks, b"")):
        head += chunk
    array = _ArrayText(head[rows.offset :], chunks)
    yield from _lines(array, uri)
    check_after_rows(array.rest(), rows.key, uri)


def _lines(array: _ArrayText, uri: str) -> Iterator[bytes]:
    try:
        for element in array.elements():
            # In JSON a line end can only occur between tokens, where a space is equivalent.
            line = element.replace("\n", " ").replace("\r", " ")
            yield line.encode("utf-8", "surrogateescape") + b"\n"
    except ValueError as error:
        raise _no_array(uri, array, str(error)) from None


def _no_array(uri: str, array: _ArrayText, found: str) -> UserError:
    return UserError(
        f"source {uri}: expected a JSON array of objects, found after {array.count} elements: "
        f"{found}. Fix the file, or write one object a line (.jsonl)"
    )


class _ArrayText:
    """Splits the text of a JSON array into its elements, with one in memory at a time.

    Raises:
        ValueError: the text is not JSON.
    """

    _SPACE = re.compile(r"[ \t\r\n]*")
    _AFTER_ELEMENT = re.compile(r"[ \t\r\n]*[,\]]")
    _LONGEST_ELEMENT = 256 << 20

    def __init__(self, head: bytes, chunks: Iterator[bytes]) -> None:
        # Undecodable bytes are kept in the lines, where they fail only their own row.
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._chunks = chunks
        self._text = self._decode(head)
        self._at = 0
        self._ended = False
        #: Number of elements so far.
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

    def rest(self, length: int | None = None) -> str:
        """The text after the array, from its first character that is not white space on."""
        self._next()
        while not self._ended and length is None:
            self._read_on()
        return self._text[self._at :][:length]

    def _take(self) -> str:
        mark = self._next()
        self._at += 1
        return mark

    def _next(self) -> str:
        """The next character that is not white space; empty at the end."""
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
            # The text may end within the element: scan it again after reading more.
            if self._ended or len(self._text) - self._at > self._LONGEST_ELEMENT:
                raise ValueError(problem)
            self._read_on()

    def _read_on(self) -> None:
        """Discard the text before the position, and at least double the rest.

        Doubling keeps repeated scans of one long element linear in its length.
        """
        self._text = self._text[self._at :]
        self._at = 0
        more = b""
        while len(more) < max(_CHUNK, len(self._text)) and not self._ended:
            chunk = next(self._chunks, b"")
            self._ended = not chunk
            more += chunk
        self._text += self._decode(more, final=self._ended)


_scan_json = json.JSONDecoder().raw_decode
