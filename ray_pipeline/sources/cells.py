"""Single values: what they are called in messages, as text, and as the type a column must have."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.types as pat

_SHOWN = 60


def as_json(value: Any) -> str | None:
    """JSON text of a value; None stays None."""
    if value is None:
        return None
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def describe(value: Any) -> str:
    """A value with its kind, shortened: ``number 42``, ``text "abc"``."""
    text = as_json(value) or "null"
    text = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    if isinstance(value, bool):
        return text
    for kinds, name in (((int, float), "number"), (str, "text"), (list, "list"), (dict, "object")):
        if isinstance(value, kinds):
            return f"{name} {text}"
    return text


def type_name(type: pa.DataType) -> str:
    """What a type is called in messages."""
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
    values: Sequence[Any], type: pa.DataType, from_text: bool
) -> tuple[pa.Array, dict[int, str]]:
    """Values as a column of the type that a stage asks for, and what is wrong with which.

    Args:
        values: JSON values or, with ``from_text``, CSV cells (of which an empty one is null
            unless text is asked for).
        type: the column's type.
        from_text: whether numbers and the like are written as text.

    Returns: the column, where a wrong value is null (as text: its JSON), and messages by index.
    """
    is_text = pat.is_string(type) or pat.is_large_string(type)
    if is_text:
        try:
            return pa.array(values, type), {}
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            pass  # some value is not text: find out which
    fits = _check_of(type)
    column: list[Any] = []
    problems = {}
    for index, value in enumerate(values):
        if from_text and not is_text and value is not None:
            value = _parsed(value, type)
        if value is not None and not fits(value):
            problems[index] = f"expected {type_name(type)}, found {describe(value)}"
            value = as_json(value) if is_text else None
        column.append(value)
    return pa.array(column, type), problems


def _check_of(type: pa.DataType) -> Callable[[Any], bool]:
    if pat.is_string(type) or pat.is_large_string(type):
        return lambda value: isinstance(value, str)
    if pat.is_boolean(type):
        return lambda value: isinstance(value, bool)
    if pat.is_floating(type):
        return lambda value: isinstance(value, int | float) and not isinstance(value, bool)
    if pat.is_integer(type):
        # Arrow would cut a fraction off without a word.
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
    """The value that a CSV cell writes; the text itself when it writes none of this type."""
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
