"""Columns with JSON values of several types, stored as text without altering any of them.

A text is stored as it is, and any other value as its JSON, with numbers as the source writes
them: ``Me``, ``42``, ``1.50``, ``true``, ``[2,3]``. A text that would itself be read as JSON, like
the text ``42``, is stored in quotes, so that each stored text has exactly one meaning. The field
carries a mark in its metadata, by which exports restore the values.
"""

from __future__ import annotations

import json
import re

import orjson
import pyarrow as pa

_MARK = (b"ray_pipeline.values", b"json")
_WORDS = frozenset(("true", "false", "null", "NaN", "Infinity", "-Infinity"))
_TEXT_OR_NOT_FINITE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|-?Infinity|NaN')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


def json_field(name: str) -> pa.Field:
    """The field of a column that holds JSON values."""
    return pa.field(name, pa.string(), metadata=dict((_MARK,)))


def holds_json(field: pa.Field) -> bool:
    """Whether a column holds JSON values."""
    return bool((field.metadata or {}).get(_MARK[0]) == _MARK[1])


def unchanged_field(field: pa.Field) -> pa.Field:
    """The field of a column that a stage does not write: of its metadata, only the mark remains."""
    return json_field(field.name) if holds_json(field) else pa.field(field.name, field.type)


def json_columns(schema: pa.Schema) -> list[str]:
    """Names of the columns that hold JSON values."""
    return [field.name for field in schema if holds_json(field)]


def stored_text(text: str) -> str:
    """A text as it is stored: in quotes if it would be read as JSON."""
    return orjson.dumps(text).decode() if _reads_as_json(text) else text


def json_text(stored: str) -> str:
    """The JSON of a stored value: of a text, with quotes; of a number, as the source writes it."""
    return stored if _reads_as_json(stored) else orjson.dumps(stored).decode()


def finite_json(text: str) -> tuple[str, int]:
    """JSON text as every reader takes it, with null for NaN and infinities, and how many of them.

    Args:
        text: of `json_text`; Python writes NaN and infinities into JSON, and they are carried.
    """
    if "NaN" not in text and "Infinity" not in text:
        return text, 0
    lost = 0

    def finite(token: re.Match[str]) -> str:
        nonlocal lost
        if token[0][0] == '"':
            return token[0]
        lost += 1
        return "null"

    return _TEXT_OR_NOT_FINITE.sub(finite, text), lost


def plain_text(stored: str) -> str:
    """A stored value for a column of text: a text is itself, any other value is its JSON."""
    if stored[:1] == '"' and _reads_as_json(stored):
        return str(orjson.loads(stored))
    return stored


def _reads_as_json(text: str) -> bool:
    first = text[:1]
    if first in ("[", "{", '"'):
        try:
            orjson.loads(text)
        except orjson.JSONDecodeError:
            return _reads_as_python_json(text)
        return True
    if first in "-0123456789":
        return bool(_NUMBER.fullmatch(text)) or text in _WORDS
    return text in _WORDS


def _reads_as_python_json(text: str) -> bool:
    """Whether Python's parser reads it, which also accepts NaN and numbers beyond a double."""
    try:
        # The numbers are not converted: Python refuses integers of more than 4,300 digits.
        json.loads(text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return False
    return True
