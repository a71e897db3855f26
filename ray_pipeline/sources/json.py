"""JSON lines: one object a line, each with its byte offset; a bad line is a row of its own."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import orjson

from ray_pipeline.sources.columns import Column

#: Integers up to here are exact as doubles.
_EXACT_IN_DOUBLE = 2**53
_INT64 = 2**63
_KINDS: dict[type, str] = {str: "text", int: "int", float: "float", bool: "bool"}
_SHOWN = 80


class Record(NamedTuple):
    """One line of a file that is not blank."""

    #: Byte offset of the line.
    start: int
    #: Its object; empty when there is none.
    cells: dict[str, Any]
    #: Why the line is malformed, and its raw text; None for a good one.
    fault: str | None = None
    raw: str | None = None


def records(file: BinaryIO, encoding: str, start: int) -> Iterator[Record]:
    """The lines from byte offset ``start`` on, where a line begins. Blank lines are no records."""
    loads = orjson.loads
    is_utf8 = encoding == "utf-8"
    for line in file:
        record = None
        if is_utf8:
            try:
                cells = loads(line)
            except orjson.JSONDecodeError:
                pass
            else:
                if type(cells) is dict:
                    record = Record(start, cells)
        if record is None and not line.isspace():
            record = _odd_record(start, line, encoding)
        if record is not None:
            yield record
        start += len(line)


def _odd_record(start: int, line: bytes, encoding: str) -> Record:
    """A line that orjson did not make an object of: malformed, or in need of a second look."""
    raw = line.decode(encoding, "replace").rstrip("\r\n")
    fault = None
    try:
        line.decode(encoding)
    except UnicodeDecodeError as error:
        byte = line[error.start]
        fault = f"source:undecodable: byte 0x{byte:02x} at {error.start} is not {encoding}"
    try:
        # Python's own reader knows what Python writes: NaN and Infinity.
        cells = json.loads(raw)
        orjson.dumps(cells)  # half a surrogate pair is no text
    except (ValueError, TypeError, RecursionError) as error:
        problem = str(error) or type(error).__name__
        return Record(start, {}, fault or f"source:json: {problem}", raw)
    if not isinstance(cells, dict):
        shown = raw if len(raw) <= _SHOWN else raw[:_SHOWN] + "…"
        return Record(start, {}, fault or f"source:not_an_object: found {shown}", raw)
    return Record(start, cells, fault, raw if fault else None)


class ColumnsSeen:
    """Which columns a file has, in order of appearance, and what kinds of values."""

    def __init__(self) -> None:
        self._types: defaultdict[str, set[Any]] = defaultdict(set)

    def add(self, cells: dict[str, Any]) -> None:
        """Take note of one object."""
        types = self._types
        for name, value in cells.items():
            kind: Any = type(value)
            if kind is int and not -_EXACT_IN_DOUBLE <= value <= _EXACT_IN_DOUBLE:
                kind = "wide" if -_INT64 <= value < _INT64 else "other"
            types[name].add(kind)

    def columns(self) -> dict[str, Column]:
        """The columns by the file's names."""
        return {name: Column(_kinds(types)) for name, types in self._types.items()}


def _kinds(types: set[Any]) -> frozenset[str]:
    named = {
        one if isinstance(one, str) else _KINDS.get(one, "other") for one in types - {type(None)}
    }
    return frozenset(named)
