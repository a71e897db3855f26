"""A JSON file that is one object: the rows may be a list under one of its keys."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ray_pipeline.core.errors import UserError

_SPACE = re.compile(r"[ \t\r\n]*")
_scan = json.JSONDecoder(parse_int=str).raw_decode


class RowsUnderKey(NamedTuple):
    """Where the rows are in a JSON object."""

    key: str
    #: Byte offset of the list's bracket in the file, without its byte-order mark.
    offset: int


@dataclass
class _Members:
    """The members of an object, as far as the text goes."""

    values: dict[str, Any] = field(default_factory=dict)
    #: Position of the bracket of each list whose first element is an object.
    lists: dict[str, int] = field(default_factory=dict)
    #: The position after the object; None where the text ends within it.
    end: int | None = None
    is_json: bool = True


def rows_in_object(head: bytes, needed: Collection[str], uri: str) -> RowsUnderKey | None:
    """Find the list of row objects in a file that is one JSON object.

    Args:
        head: its first bytes.
        needed: the file's names of the columns that the job reads.
        uri: the file, for messages.

    Returns: None if the file is none such: its lines are objects, and each of them a row.

    Raises:
        UserError: there are several such lists, or none and the file is in another known form; the
            message says how to write it again.
    """
    text = head.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    members = _members(text)
    if members is None or not members.is_json:
        return None
    if members.end is not None and text[members.end :].strip():
        return None  # further objects, one a line
    is_one_line = "\n" not in text.strip()
    if is_one_line and (not needed or set(needed) & _keys_of_row(members)):
        return None  # one row
    if len(members.lists) > 1:
        raise UserError(
            f"source {uri}: expected rows, found an object with lists of objects under "
            f"{', '.join(map(repr, members.lists))}: write the list with the rows to a file of its "
            f"own, as in `jq '.{next(iter(members.lists))}' FILE > rows.json`"
        )
    for key, position in members.lists.items():
        before = text[:position].encode("utf-8", "surrogateescape")
        return RowsUnderKey(key, len(before))
    if (form := _pandas_form(members.values, needed)) is not None:
        raise UserError(f"source {uri}: expected one object a row, found {pandas_form(form)}")
    return None


def pandas_form(orient: str) -> str:
    """What pandas has written in a form that has no row objects, and how to write it again."""
    return (
        f'what pandas\' to_json() writes with orient="{orient}": write it again with '
        'df.to_json("rows.jsonl", orient="records", lines=True)'
    )


def check_after_rows(rest: str, key: str, uri: str) -> None:
    """Check what comes after the list of rows.

    Args:
        rest: the text from the list's closing bracket to the end of the file.
        key: of the list.
        uri: the file, for messages.

    Raises:
        UserError: it is not the rest of an object, or holds another list of objects.
    """
    members = _members('{"":0' + rest)
    if members is None or not members.is_json or members.end is None:
        raise UserError(f"source {uri}: no JSON after the rows under {key!r}: write the file again")
    if members.lists:
        raise UserError(
            f"source {uri}: expected rows, found lists of objects under {key!r} and "
            f"{next(iter(members.lists))!r}: write the list with the rows to a file of its own"
        )


def _members(text: str) -> _Members | None:
    """The members of the object that a text begins with; None if it begins otherwise."""
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        return None
    members = _Members()
    at = _skip(text, at + 1)
    if text[at : at + 1] == "}":
        members.end = at + 1
        return members
    while True:
        try:
            key, at = _scan(text, at)
            at = _skip(text, at)
            if text[at : at + 1] != ":" or not isinstance(key, str):
                members.is_json = at >= len(text)
                return members
            at = _skip(text, at + 1)
            if text[at : at + 1] == "[" and text[_skip(text, at + 1) :][:1] == "{":
                members.lists[key] = at
            members.values[key] = None if at >= len(text) else _begun(text, at)
            members.values[key], at = _scan(text, at)
        except (ValueError, RecursionError):
            # Either the text ends here, or it is no JSON: a list that has begun is still found.
            members.is_json = bool(members.values)
            return members
        at = _skip(text, at)
        mark = text[at : at + 1]
        if mark == "}":
            members.end = at + 1
        if mark != ",":
            members.is_json = mark in ("}", "")
            return members
        at = _skip(text, at + 1)


def _begun(text: str, at: int) -> Any:
    """A value whose end is not known: an empty one of its type."""
    return {"{": {}, "[": []}.get(text[at])


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _keys_of_row(members: _Members) -> set[str]:
    """The keys of an object that would be a row: not those of a table by column."""
    values = members.values
    return {key for key, value in values.items() if not isinstance(value, dict)}


def _pandas_form(values: dict[str, Any], needed: Collection[str]) -> str | None:
    """The ``orient`` of pandas' ``to_json`` that has written an object; None if it has not."""
    if isinstance(values.get("columns"), list) and isinstance(values.get("data"), list):
        return "split"
    if not values or not all(isinstance(value, dict) for value in values.values()):
        return None
    if set(needed) & values.keys():
        return "columns"
    inner = next(iter(values.values()))
    if set(needed) & inner.keys():
        return "index"
    labels = [list(value) for value in values.values()]
    is_table = len(labels) > 1 and all(row == labels[0] for row in labels)
    return ("index" if next(iter(values)).isdigit() else "columns") if is_table else None
