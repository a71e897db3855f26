"""Columns of a source: the pipeline's names for the files', and one type for all files."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.types as pat

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.rows import ENVELOPE_COLUMNS
from ray_pipeline.sources.cells import type_name

#: The raw text of malformed records, in a source that has any.
RAW_COLUMN = "source_raw"


@dataclass(frozen=True)
class Column:
    """What one file holds under one name.

    ``kinds`` are those of the values that are not null: ``text``, ``int``, ``wide`` (an integer
    that a double cannot hold), ``float``, ``bool``, ``other``.
    """

    kinds: frozenset[str]
    #: The type that the file declares (Parquet, Arrow); None where values speak for themselves.
    declared: pa.DataType | None = None

    @staticmethod
    def of_type(declared: pa.DataType) -> Column:
        """A column whose type the file declares."""
        declared = _plain(declared)
        if pat.is_null(declared):
            return Column(frozenset())
        return Column(frozenset({_kind_of(declared)}), declared)


def _plain(type: pa.DataType) -> pa.DataType:
    """The type without its encoding: dictionaries and large strings are strings."""
    if pat.is_dictionary(type):
        type = type.value_type
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
) -> dict[str, str]:
    """The pipeline's names of a file's columns, with the file's names, in the file's order.

    Args:
        names: the file's columns.
        mapping: pipeline's name -> file's name, as configured.
        required: pipeline's names of the columns that must be there, each with what ends the
            message where it is not.
        uri: the file, for messages.
        how_read: how the names were found, for messages (the delimiter).

    Raises:
        UserError: a column that is missing, there twice, or named like the envelope.
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
            raise UserError(_missing(name, own, names, uri) + required.get(name, how_read))
    chosen: dict[str, str] = {}
    for own in names:
        pipeline_names = [name for name, source in wanted.items() if source == own]
        for name in pipeline_names or [own]:
            _check_free(name, own, chosen, wanted, uri)
            chosen[name] = own
    return chosen


def _missing(name: str, own: str, names: Sequence[str], uri: str) -> str:
    purpose = f" (for {name!r})" if own != name else ""
    message = (
        f"source {uri}: column {own!r}{purpose} is not there; columns: {', '.join(names) or 'none'}"
    )
    same = [one for one in names if one.strip().lower() == own.strip().lower()]
    close = same or difflib.get_close_matches(own, names, n=1, cutoff=0.6)
    if not close:
        return f"{message}; say which it is in source.columns: {{{name}: ...}}"
    how = ", which differs only in case or spaces" if same else ""
    mend = f"source.columns: {{{name}: {close[0]}}}"
    return f"{message}; did you mean {close[0]!r}{how}? Then set {mend}"


def _check_free(
    name: str, own: str, chosen: Mapping[str, str], wanted: Mapping[str, str], uri: str
) -> None:
    if name in ENVELOPE_COLUMNS:
        raise UserError(
            f"source {uri}: column {own!r} has a name that the pipeline needs for itself "
            f"({', '.join(ENVELOPE_COLUMNS)}): give it another with "
            f"source.columns: {{source_{name}: {own}}}"
        )
    if name in chosen or wanted.get(name, own) != own:
        raise UserError(
            f"source {uri}: two columns would be called {name!r}: {own!r} and "
            f"{chosen.get(name, wanted.get(name))!r}: give the other a name of its own, as in "
            f"source.columns: {{{name}_in_file: {name}}}"
        )


def check_required(name: str, own: str, column: Column, expected: pa.DataType, uri: str) -> None:
    """Refuse a column that cannot be what a stage reads, whatever its single values.

    Raises:
        UserError: no value of the column has the expected type.
    """
    if not column.kinds or _may_be(column, expected):
        return
    found = str(column.declared) if column.declared else " and ".join(sorted(column.kinds))
    mapped = f" (the file's {own!r})" if own != name else ""
    raise UserError(
        f"source {uri}: column {name!r}{mapped}: expected {type_name(expected)}, found {found} "
        "in all of it: convert the column, or name another in source.columns"
    )


def _may_be(column: Column, expected: pa.DataType) -> bool:
    if _is_text(expected):
        return "text" in column.kinds
    if column.declared is not None and column.declared.equals(expected):
        return True
    if pat.is_integer(expected):
        return bool(column.kinds & {"int", "wide"})
    if pat.is_floating(expected):
        return bool(column.kinds & {"int", "wide", "float"})
    if pat.is_boolean(expected):
        return "bool" in column.kinds
    return column.declared is None and "other" in column.kinds


def common_type(columns: Sequence[Column]) -> pa.DataType | None:
    """The type that holds the values of a column in all files; None: only JSON text does."""
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
