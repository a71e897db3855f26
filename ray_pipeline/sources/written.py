"""JSON values as a file writes them: numbers keep every digit, and a key that is twice is found."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal, DecimalException
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
from jiter import LosslessFloat, from_json

#: Integers up to here are exact as doubles.
EXACT_IN_DOUBLE = 2**53
_INT64 = 2**63
_KINDS: dict[Any, str] = {str: "text", float: "float", bool: "bool", list: "other", dict: "other"}
#: A decimal number of at most this many characters, without an exponent, is exact as a double.
_SHORT = 16
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


class Written(str):
    """The JSON of a value that is not text: compact, with its numbers as the file has them."""

    __slots__ = ()

    @property
    def is_nested(self) -> bool:
        """Whether the value is a list or an object."""
        return self[0] in "[{"


def parse_exactly(line: bytes) -> Any:
    """A JSON value whose floating-point numbers are `LosslessFloat`, and whose keys are unique.

    Raises:
        ValueError: it is not JSON, has a key twice, or is nested more than 200 levels deep.
    """
    return from_json(
        line,
        allow_inf_nan=False,
        cache_mode="keys",
        catch_duplicate_keys=True,
        float_mode="lossless-float",
    )


def kind_of(value: Any) -> str | None:
    """The kind of a value in `ray_pipeline.sources.columns.Column.kinds`; None for null.

    Args:
        value: of `parse_exactly`, of Python's parser, or `Written`.
    """
    if value is None:
        return None
    kind = type(value)
    if kind is int:
        if -EXACT_IN_DOUBLE <= value <= EXACT_IN_DOUBLE:
            return "int"
        return "wide" if -_INT64 <= value < _INT64 else "long"
    if kind is LosslessFloat:
        return "float" if _is_exact(str(value)) else "long"
    if kind is Written:
        return _kind_of_written(value)
    return _KINDS[kind]


def floats_are_exact(numbers: Sequence[LosslessFloat]) -> bool:
    """Whether a double holds each number, as `kind_of` finds out for one."""
    written = pa.array(map(str, numbers), pa.string(), size=len(numbers))
    shortest = written.cast(pa.float64()).cast(pa.string())
    # Where the two differ it may be in form alone: 1.50 is 1.5.
    return all(map(_is_exact, written.filter(pc.not_equal(written, shortest)).to_pylist()))


def _kind_of_written(value: Written) -> str:
    if value.is_nested:
        return "other"
    if value in ("true", "false"):
        return "bool"
    if value.removeprefix("-").isdigit():
        return "long" if len(value) > 20 else kind_of(int(value)) or "int"
    return "float" if value.lstrip("-") in ("NaN", "Infinity") or _is_exact(value) else "long"


def _is_exact(number: str) -> bool:
    """Whether a double holds a decimal number so that its shortest form has the same value."""
    if len(number) <= _SHORT and "e" not in number and "E" not in number:
        return True
    shortest = repr(float(number))
    if shortest == number:
        return True
    try:
        return Decimal(number) == Decimal(shortest)
    except DecimalException:  # an exponent of more than 18 digits
        return False


def repeated_key(text: str) -> str | None:
    """The first key that an object in a JSON text has twice; None if there is none."""
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> None:
        seen = set()
        for key, _ in pairs:
            if key in seen:
                repeated.append(key)
            seen.add(key)

    json.loads(text, object_pairs_hook=unique, parse_int=str, parse_float=str)
    return repeated[0] if repeated else None


def cells_as_written(line: bytes, names: Collection[str]) -> dict[str, Any] | None:
    """The values of a line, those of ``names`` as `values_as_written` returns them.

    Returns: None if the line is not a JSON object, or needs `values_as_written`, which is slower.
    """
    if b"-0" in line:  # the parser reads -0 as 0
        return None
    try:
        cells = parse_exactly(line)
        if type(cells) is not dict:
            return None
        for name, value in cells.items():
            if name in names:
                cells[name] = _written(value)
            elif type(value) is LosslessFloat:
                cells[name] = float(value)
            elif type(value) is dict or type(value) is list:
                return None
    except (ValueError, TypeError):
        return None  # a number or a nesting that these libraries cannot write, or a repeated key
    return cells


def values_as_written(text: str, names: Collection[str]) -> dict[str, str | None]:
    """Some values of a line: text as `str`, null as None, anything else as `Written`.

    Args:
        text: a JSON object. Of a key that is in it twice, the last value counts.
        names: keys whose values are returned, where the object has them.
    """
    return {name: value for name, value in _values_of_tokens(text) if name in names}


def _written(value: Any) -> str | None:
    if value is None or type(value) is str:
        return value
    if isinstance(value, bool):
        return Written("true" if value else "false")
    if isinstance(value, int | LosslessFloat):
        return Written(str(value))
    return Written(orjson.dumps(value, default=_fragment).decode())


def _fragment(number: Any) -> orjson.Fragment:
    return orjson.Fragment(bytes(number))


def _values_of_tokens(text: str) -> Iterable[tuple[str, str | None]]:
    """The keys and values of a valid JSON object; of any depth, and with numbers of any length."""
    tokens = _TOKEN.findall(text)
    index = tokens.index("{") + 1
    while tokens[index] != "}":
        key = orjson.loads(tokens[index])
        start = index = index + 2
        depth = 0
        while depth or tokens[index] not in (",", "}"):
            depth += (tokens[index] in ("[", "{")) - (tokens[index] in ("]", "}"))
            index += 1
        yield key, _of_tokens(tokens[start:index])
        index += tokens[index] == ","


def _of_tokens(tokens: list[str]) -> str | None:
    if len(tokens) > 1:
        return Written("".join(_normalised(token) for token in tokens))
    if tokens[0] == "null":
        return None
    return str(orjson.loads(tokens[0])) if tokens[0][0] == '"' else Written(tokens[0])


def _normalised(token: str) -> str:
    return orjson.dumps(orjson.loads(token)).decode() if "\\" in token else token
