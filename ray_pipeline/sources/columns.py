"""Columns of a source: their names in the pipeline, and one type for all files."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.types as pat

from ray_pipeline.core.arrow_types import plain_type
from ray_pipeline.core.config import fix
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.json_values import stored_text
from ray_pipeline.core.rows import ENVELOPE_COLUMNS
from ray_pipeline.sources.written import Written

#: The raw text of malformed records, in a source that has any.
RAW_COLUMN = "source_raw"
#: Maximum number of characters of a value in a message.
_SHOWN = 60


@dataclass(frozen=True)
class Column:
    """The values that one file has in one column.

    ``kinds`` are the kinds of the values that are not null: ``text``, ``int``, ``wide`` (an
    integer that a double cannot hold), ``float``, ``long`` (a number that neither a 64-bit integer
    nor a double holds), ``bool``, ``other``.
    """

    kinds: frozenset[str]
    #: The type that the file declares (Parquet, Arrow); None for formats without declared types.
    declared: pa.DataType | None = None

    @staticmethod
    def of_type(declared: pa.DataType) -> Column:
        """A column whose type the file declares."""
        declared = _plain(declared)
        if pat.is_null(declared):
            return Column(frozenset())
        return Column(frozenset({_kind_of(declared)}), declared)


def _plain(type: pa.DataType) -> pa.DataType:
    """The type that a run holds: without its encoding, and large strings are strings."""
    type = plain_type(type)
    return pa.string() if _is_text(type) else type


def _is_text(type: pa.DataType) -> bool:
    return pat.is_string(type) or pat.is_large_string(type) or pat.is_string_view(type)


def _kind_of(type: pa.DataType) -> str:
    if _is_text(type):
        return "text"
    if pat.is_integer(type):
        return "other" if pat.is_uint64(type) else "int"
    if pat.is_floating(type):
        return "float"
    return "bool" if pat.is_boolean(type) else "other"


def choose_columns(
    names: Sequence[str],
    mapping: Mapping[str, str],
    required: Mapping[str, str],
    uri: str,
    how_read: str = "",
    reserved: Collection[str] = ENVELOPE_COLUMNS,
) -> dict[str, str]:
    """The pipeline's names of a file's columns, with the file's names, in the file's order.

    Args:
        names: the file's columns.
        mapping: pipeline's name -> file's name, as configured.
        required: pipeline's names of the required columns, each with the end of the error message
            where it is missing.
        uri: the file, for messages.
        how_read: how the names were read (the delimiter), for messages.
        reserved: names that no column may have.

    Raises:
        UserError: a column is missing, occurs twice, or has a reserved name.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(
            f"source {uri}: column {twice[0]!r} is there twice; columns: {', '.join(names)}. "
            f"Rename one of them in the file{how_read}"
        )
    wanted = dict(mapping) | {name: name for name in required if name not in mapping}
    for name, own in wanted.items():
        if own not in names:
            more = required.get(name, how_read)
            raise UserError(_missing(name, wanted, names, mapping, uri, more))
    chosen: dict[str, str] = {}
    for own in names:
        pipeline_names = [name for name, source in wanted.items() if source == own]
        for name in pipeline_names or [own]:
            _check_free(name, own, chosen, wanted, mapping, uri, reserved)
            chosen[name] = own
    return chosen


def _missing(
    name: str,
    wanted: Mapping[str, str],
    names: Sequence[str],
    mapping: Mapping[str, str],
    uri: str,
    more: str,
) -> str:
    own = wanted[name]
    purpose = f" (for {name!r})" if own != name else ""
    message = (
        f"source {uri}: column {own!r}{purpose} is not there; columns: {', '.join(names) or 'none'}"
    )
    if "; set source." in more:
        return message + more  # the whole header was read in a wrong way
    found, differs = _similar(own, names)
    if found is None:
        return f"{message}; say which it is in source.columns: {{{name}: ...}}{more}"
    how = ", which differs only in case or spaces" if differs else ""
    # All that are missing at once, so that one change is enough.
    similar = {n: _similar(o, names)[0] for n, o in wanted.items() if o not in names}
    added = {n: other for n, other in similar.items() if other is not None}
    setting = fix("source.columns", {**mapping, **added})
    more = f" {more.strip('; ')}." if more else ""
    return f"{message}; did you mean {found!r}{how}?{more} Then set {setting}"


def _similar(own: str, names: Sequence[str]) -> tuple[str | None, bool]:
    """The most similar name of a file, and whether it differs only in case or spaces."""
    same = [other for other in names if other.strip().lower() == own.strip().lower()]
    close = same or difflib.get_close_matches(own, names, n=1, cutoff=0.6)
    return (close[0] if close else None), bool(same)


def _check_free(
    name: str,
    own: str,
    chosen: Mapping[str, str],
    wanted: Mapping[str, str],
    mapping: Mapping[str, str],
    uri: str,
    reserved: Collection[str],
) -> None:
    if name in reserved:
        # A name that is configured is replaced; one that the file has is mapped to another.
        others = {n: source for n, source in mapping.items() if n != name}
        raise UserError(
            f"source {uri}: column {own!r} has a name that the pipeline needs for itself "
            f"({', '.join(reserved)}): give it another with "
            f"{fix('source.columns', {**others, _other_name(name): own})}"
        )
    if name in chosen or wanted.get(name, own) != own:
        other = chosen.get(name, wanted.get(name))
        raise UserError(
            f"source {uri}: two columns would be called {name!r}: {own!r} and {other!r}: give the "
            "other a name of its own, as in "
            f"{fix('source.columns', {**mapping, f'{name}_in_file': name})}"
        )


def _other_name(name: str) -> str:
    return f"{name}_in_file" if name.startswith("source_") else f"source_{name}"


def check_required(name: str, own: str, column: Column, expected: pa.DataType, uri: str) -> None:
    """Raise an error for a column none of whose values can have the type that a stage reads.

    Raises:
        UserError: no value of the column has the expected type.
    """
    if not column.kinds or may_be(column, expected):
        return
    found = str(column.declared) if column.declared else " and ".join(sorted(column.kinds))
    mapped = f" (the file's {own!r})" if own != name else ""
    raise UserError(
        f"source {uri}: column {name!r}{mapped}: expected {type_name(expected)}, found {found} "
        "in all of it: convert the column, or name another in source.columns"
    )


def may_be(column: Column, expected: pa.DataType) -> bool:
    """Whether some values of a column may have a type, or be read as it."""
    if _is_text(expected):
        return "text" in column.kinds
    if column.declared is not None and column.declared.equals(expected):
        return True
    if pat.is_integer(expected):
        return bool(column.kinds & {"int", "wide"})
    if pat.is_floating(expected):
        return bool(column.kinds & {"int", "wide", "float", "long"})
    if pat.is_boolean(expected):
        return "bool" in column.kinds
    return column.declared is None and "other" in column.kinds


def common_type(columns: Sequence[Column]) -> pa.DataType | None:
    """The type that holds a column's values exactly in all files; None where only JSON text can."""
    filled = [column for column in columns if column.kinds]
    declared = {column.declared for column in filled}
    if len(declared) == 1 and (only := declared.pop()) is not None:
        return only
    kinds = frozenset[str]().union(*(column.kinds for column in filled))
    if kinds <= {"text"}:
        return pa.string()
    if kinds <= {"int", "wide"}:
        return pa.int64()
    if kinds <= {"int", "float"}:
        return pa.float64()
    return pa.bool_() if kinds == {"bool"} else None


# Single values


def as_json(value: Any) -> str | None:
    """A value as JSON text; None stays None."""
    if value is None:
        return None
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def json_value(value: Any) -> str | None:
    """A value for a column of JSON values, see `ray_pipeline.core.json_values`."""
    if type(value) is Written:
        return str(value)
    return stored_text(value) if isinstance(value, str) else as_json(value)


def describe(value: Any) -> str:
    """A value with its kind, shortened: ``number 42``, ``text "abc"``."""
    if type(value) is Written:
        kind = {"[": "list", "{": "object"}.get(value[0], "number")
        return f"{kind} {value if len(value) <= _SHOWN else value[:_SHOWN] + '…'}"
    text = as_json(value) or "null"
    text = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    if isinstance(value, bool):
        return text
    for kinds, name in (((int, float), "number"), (str, "text"), (list, "list"), (dict, "object")):
        if isinstance(value, kinds):
            return f"{name} {text}"
    return text


def type_name(type: pa.DataType) -> str:
    """The name of a type in messages."""
    if pat.is_string(type) or pat.is_large_string(type):
        return "text"
    if pat.is_integer(type):
        return "a whole number"
    if pat.is_floating(type):
        return "a number"
    if pat.is_boolean(type):
        return "true or false"
    return str(type)


def typed_column(
    values: Sequence[Any], type: pa.DataType, from_text: bool, nested_as_json: bool = False
) -> tuple[pa.Array, dict[int, str]]:
    """Convert values to a column of the type that a stage requires.

    Args:
        values: JSON values or, with ``from_text``, CSV cells. An empty cell is null, unless the
            type is text. Those of a column of text are text or `Written`.
        type: the column's type.
        from_text: whether all values are text, so that numbers have to be parsed.
        nested_as_json: whether a list or an object may be in a column of text.

    Returns: the column, and an error message by index for each value of a wrong type. Such a
        value is null in the column; in a column of text it is the value's JSON.
    """
    is_text = pat.is_string(type) or pat.is_large_string(type)
    if is_text:
        return _text_column(values, nested_as_json)
    fits = _check_of(type)
    column: list[Any] = []
    problems = {}
    for index, value in enumerate(values):
        if from_text and not is_text and value is not None:
            value = _parsed(value, type)
        if value is not None and not fits(value):
            problems[index] = f"expected {type_name(type)}, found {describe(value)}"
            value = None
        column.append(value)
    return pa.array(column, type), problems


def _text_column(values: Sequence[Any], nested_as_json: bool) -> tuple[pa.Array, dict[int, str]]:
    """Values as a column of text, and an error message by index for each list and object."""
    problems = {}
    for index, value in enumerate(values):
        if type(value) is Written and value.is_nested and not nested_as_json:
            problems[index] = (
                f"expected text, found {describe(value)}. With `nested: json` under the source it "
                "is read as JSON text"
            )
    return pa.array(values, pa.string()), problems


def _check_of(type: pa.DataType) -> Callable[[Any], bool]:
    if pat.is_string(type) or pat.is_large_string(type):
        return lambda value: isinstance(value, str)
    if pat.is_boolean(type):
        return lambda value: isinstance(value, bool)
    if pat.is_floating(type):
        return lambda value: isinstance(value, int | float) and not isinstance(value, bool)
    if pat.is_integer(type):
        # Arrow would truncate a fraction silently.
        return lambda value: (
            isinstance(value, int) and not isinstance(value, bool) and _converts(value, type)
        )
    return lambda value: _converts(value, type)


def _converts(value: Any, type: pa.DataType) -> bool:
    try:
        pa.array([value], type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return False
    return True


def _parsed(text: str, type: pa.DataType) -> Any:
    """The value of a CSV cell; the text itself where it is not of this type."""
    text = text.strip()
    if not text:
        return None
    if pat.is_integer(type):
        return int(text) if re.fullmatch(r"[+-]?\d{1,30}", text, re.ASCII) else text
    if pat.is_floating(type):
        try:
            return float(text)
        except ValueError:
            return text
    try:
        return orjson.loads(text.lower() if pat.is_boolean(type) else text)
    except orjson.JSONDecodeError:
        return text
