"""Which Arrow types a run can hold, and the values of any of them as JSON.

A run keeps its rows in Parquet files and filters, sorts and joins them. Types that differ only in
how values lie in memory (views, dictionaries, run-end encoding) are held as the plain type of the
same values; types that Parquet has no place for cannot be held.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pat

_UNITS_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type that holds the same values and can be filtered, sorted and written to Parquet.

    Seconds become milliseconds and ``date64`` becomes ``date32``, as in any Parquet file. A type
    that has no such form is returned as it is: see `why_not_held`.
    """
    if pat.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pat.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if pat.is_string_view(kind):
        return pa.string()
    if pat.is_binary_view(kind):
        return pa.binary()
    if pat.is_date64(kind):
        return pa.date32()
    if pat.is_time32(kind):
        return pa.time32("ms")
    if pat.is_timestamp(kind) and kind.unit == "s":
        return pa.timestamp("ms", kind.tz)
    return _plain_nested(kind)


def _plain_nested(kind: pa.DataType) -> pa.DataType:
    if pat.is_struct(kind):
        return pa.struct([_plain_field(kind.field(i)) for i in range(kind.num_fields)])
    if pat.is_map(kind):
        return pa.map_(plain_type(kind.key_type), _plain_field(kind.item_field))
    if pat.is_list(kind):
        return pa.list_(_plain_field(kind.value_field))
    if pat.is_large_list(kind):
        return pa.large_list(_plain_field(kind.value_field))
    if pat.is_fixed_size_list(kind):
        return pa.list_(_plain_field(kind.value_field), kind.list_size)
    return kind


def _plain_field(field: pa.Field) -> pa.Field:
    if pat.is_null(field.type):
        return field.with_type(pa.string())  # pyarrow 26 can take no rows of a list of nulls
    return field.with_type(plain_type(field.type))


def as_plain(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """A column with its `plain_type`; the values are the same.

    Raises:
        ArrowInvalid: a time in seconds is too far from 1970 for milliseconds in 64 bits.
    """
    if pat.is_run_end_encoded(column.type):
        column = pc.run_end_decode(column)
    plain = plain_type(column.type)
    return column if column.type.equals(plain) else column.cast(plain)


@lru_cache(maxsize=1024)
def why_not_held(kind: pa.DataType) -> str | None:
    """Why a run cannot hold values of a type; None if it can.

    The type's `plain_type` is tried on a column of nulls: decoded, filtered, sorted, concatenated,
    and written to Parquet and read from it.
    """
    if (repeated := _repeated_field(kind)) is not None:
        return f"it has two fields named {repeated!r}"
    if _has_inner_list_view(kind):
        return "a list view in another type is not supported"
    try:
        nulls = as_plain(pa.nulls(2, kind))
        table = pa.table({"column": nulls})
        table = pa.concat_tables([table.take(pa.array([1, 0])), table.filter(pa.array([True] * 2))])
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        read = pq.read_table(pa.BufferReader(sink.getvalue()))["column"]
        if not read.type.equals(nulls.type):
            return f"Parquet turns it into {read.type}"
        json_values(read, Counter())
    except (pa.ArrowException, NotImplementedError, OSError, TypeError, ValueError) as error:
        return f"it is not supported: {(str(error) or type(error).__name__).splitlines()[0]}"
    return None


def _has_inner_list_view(kind: pa.DataType, is_inner: bool = False) -> bool:
    """Whether a list view lies in another type: pyarrow 26 changes its values in a cast."""
    is_view = pat.is_list_view(kind) or pat.is_large_list_view(kind)
    if is_view and is_inner:
        return True
    fields = [kind.field(i) for i in range(kind.num_fields)] if pat.is_nested(kind) else []
    return any(_has_inner_list_view(field.type, is_inner=True) for field in fields)


def _repeated_field(kind: pa.DataType) -> str | None:
    """The name of two fields of a struct, at any depth: it could be read by neither."""
    fields = [kind.field(i) for i in range(kind.num_fields)] if pat.is_nested(kind) else []
    names = Counter(field.name for field in fields)
    if pat.is_struct(kind) and names and max(names.values()) > 1:
        return names.most_common(1)[0][0]
    inner = (_repeated_field(field.type) for field in fields)
    return next((name for name in inner if name is not None), None)


class Carried:
    """A value that Python has no type for; it can be passed on, and not looked at."""

    def __repr__(self) -> str:
        """What a template shows that names its column."""
        return "(a value that Python cannot hold)"


def python_rows(rows: pa.Table) -> list[dict[str, Any]]:
    """Rows as dictionaries of Python's values, `Carried` in columns that Python cannot hold."""
    columns = []
    for name in rows.column_names:
        try:
            columns.append(rows[name].to_pylist())
        except (ValueError, OverflowError, NotImplementedError, pa.ArrowException):
            columns.append([Carried() for _ in range(rows.num_rows)])
    return [
        dict(zip(rows.column_names, values, strict=True)) for values in zip(*columns, strict=True)
    ]


# Values as JSON


def json_values(column: pa.ChunkedArray | pa.Array, not_finite: Counter[str]) -> list[Any]:
    """A column's values as what JSON has: numbers, text, true, false, null, lists and objects.

    Args:
        column: of a type that a run can hold (see `why_not_held`).
        not_finite: gets the numbers of NaN (``NaN``) and of infinities (``infinity``), which are
            null in the result.

    Returns:
        A value for each row. Decimals are text with all digits; bytes are base64; times are ISO
        8601, in UTC (``Z``) where the type has a time zone; durations are ISO 8601 in seconds
        (``PT1.5S``); a map is a list of pairs.
    """
    if isinstance(column, pa.ChunkedArray):
        return [value for chunk in column.chunks for value in json_values(chunk, not_finite)]
    kind = column.type
    if pat.is_null(kind) or not len(column):
        return [None] * len(column)
    for is_kind, convert in _SCALARS:
        if is_kind(kind):
            return convert(column)
    if pat.is_floating(kind):
        return _floats(column, not_finite)
    if isinstance(kind, pa.BaseExtensionType):
        return _extension(column, not_finite)
    if pat.is_struct(kind):
        return _objects(column, not_finite)
    if pat.is_map(kind):
        return _pairs(column, not_finite)
    if pat.is_nested(kind):
        return _lists(column, not_finite)
    return cast("list[Any]", column.to_pylist())


def json_rows(rows: pa.Table | pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows as dictionaries of `json_values`."""
    names = rows.column_names
    columns = [json_values(rows[name], Counter()) for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _floats(column: pa.Array, not_finite: Counter[str]) -> list[Any]:
    values = column.to_pylist()
    finite = pc.fill_null(pc.is_finite(column), True)
    if pc.all(finite).as_py():
        return [None if value is None else float(value) for value in values]
    nans = pc.sum(pc.is_nan(column)).as_py() or 0
    not_finite["NaN"] += nans
    not_finite["infinity"] += len(column) - pc.sum(finite).as_py() - nans
    return [
        float(value) if value is not None and is_finite else None
        for value, is_finite in zip(values, finite.to_pylist(), strict=True)
    ]


def _extension(column: Any, not_finite: Counter[str]) -> list[Any]:
    if isinstance(column.type, pa.UuidType):
        return [None if value is None else str(value) for value in column.to_pylist()]
    if isinstance(column.type, pa.Bool8Type):
        return cast("list[Any]", column.to_pylist())
    return json_values(column.storage, not_finite)


def _objects(column: Any, not_finite: Counter[str]) -> list[Any]:
    names = [column.type.field(i).name for i in range(column.type.num_fields)]
    # Unlike `field`, `flatten` applies the nulls of the struct itself.
    fields = [json_values(field, not_finite) for field in column.flatten()]
    valid = column.is_valid().to_pylist()
    return [
        dict(zip(names, values, strict=True)) if is_valid else None
        for is_valid, *values in zip(valid, *fields, strict=True)
    ]


def _pairs(column: Any, not_finite: Counter[str]) -> list[Any]:
    first, last = column.offsets[0].as_py(), column.offsets[-1].as_py()
    keys = json_values(column.keys.slice(first, last - first), not_finite)
    items = json_values(column.items.slice(first, last - first), not_finite)
    pairs = [list(pair) for pair in zip(keys, items, strict=True)]
    return _cut(pairs, np.diff(column.offsets.to_numpy()).tolist(), column.is_valid().to_pylist())


def _lists(column: Any, not_finite: Counter[str]) -> list[Any]:
    lengths = pc.fill_null(pc.list_value_length(column), 0)
    values = json_values(column.flatten(), not_finite)  # without those that nulls lie over
    return _cut(values, lengths.to_pylist(), column.is_valid().to_pylist())


def _cut(values: list[Any], lengths: Sequence[int], valid: Sequence[bool]) -> list[Any]:
    found: list[Any] = []
    at = 0
    for length, is_valid in zip(lengths, valid, strict=True):
        found.append(values[at : at + length] if is_valid else None)
        at += length
    return found


def _decimals(column: pa.Array) -> list[Any]:
    return [None if value is None else format(value, "f") for value in column.to_pylist()]


def _bytes(column: pa.Array) -> list[Any]:
    return [
        None if value is None else base64.b64encode(value).decode() for value in column.to_pylist()
    ]


def _days(column: pa.Array) -> list[Any]:
    return _iso(column.cast(pa.int32()).cast(pa.int64()), "D", "")


def _moments(column: pa.Array) -> list[Any]:
    return _iso(column.cast(pa.int64()), column.type.unit, "Z" if column.type.tz else "")


def _iso(numbers: pa.Array, unit: str, suffix: str) -> list[Any]:
    """ISO 8601 of times since 1970; numpy writes years that Python's dates cannot hold, too."""
    since = pc.fill_null(numbers, 0).to_numpy().view(f"datetime64[{unit}]")
    texts = np.datetime_as_string(since).tolist()
    return [
        text + suffix if is_valid else None
        for text, is_valid in zip(texts, numbers.is_valid().to_pylist(), strict=True)
    ]


def _times(column: pa.Array) -> list[Any]:
    return cast("list[Any]", column.cast(pa.string()).to_pylist())


def _durations(column: pa.Array) -> list[Any]:
    per_second = _UNITS_PER_SECOND[column.type.unit]
    digits = len(str(per_second)) - 1
    found: list[Any] = []
    for number in column.cast(pa.int64()).to_pylist():
        if number is None:
            found.append(None)
            continue
        whole, rest = divmod(abs(number), per_second)
        fraction = f".{rest:0{digits}d}".rstrip("0") if rest else ""
        found.append(f"{'-' if number < 0 else ''}PT{whole}{fraction}S")
    return found


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pat.is_binary(kind) or pat.is_large_binary(kind) or pat.is_fixed_size_binary(kind))


_SCALARS = (
    (pat.is_decimal, _decimals),
    (_is_binary, _bytes),
    (pat.is_date32, _days),
    (pat.is_timestamp, _moments),
    (pat.is_time, _times),
    (pat.is_duration, _durations),
)
