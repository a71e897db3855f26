"""What a run can hold of Arrow's types, and how each is written as JSON."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.arrow_columns import columns
from support.soak import EXAMPLES

from ray_pipeline.core.arrow_types import as_plain, json_values, plain_type, why_not_held

VALUES: dict[str, tuple[pa.Array, Any]] = {
    "decimals": (pa.array([Decimal("1.50"), None], pa.decimal128(10, 2)), ["1.50", None]),
    "zero": (pa.array([Decimal("0E-10")], pa.decimal128(20, 10)), ["0.0000000000"]),
    "bytes": (pa.array([b"\x89PNG\xff", b""]), ["iVBOR/8=", ""]),
    "numbers": (pa.array([2**64 - 1, 0], pa.uint64()), [2**64 - 1, 0]),
    "days": (pa.array([0, 10**8, -(10**6)], pa.int32()).view(pa.date32()),
             ["1970-01-01", "275760-09-13", "-768-02-04"]),
    "seconds": (pa.array([1.5, None], pa.float16()), [1.5, None]),
    "moments": (pa.array([1, None], pa.int64()).view(pa.timestamp("ns")),
                ["1970-01-01T00:00:00.000000001", None]),
    "zoned": (pa.array([0], pa.int64()).view(pa.timestamp("us", "Europe/Paris")),
              ["1970-01-01T00:00:00.000000Z"]),
    "times": (pa.array([1], pa.int64()).view(pa.time64("ns")), ["00:00:00.000000001"]),
    "durations": (pa.array([1500, -1, None], pa.int64()).view(pa.duration("ms")),
                  ["PT1.5S", "-PT0.001S", None]),
    "struct": (pa.array([{"bytes": b"a", "path": "p"}, None]),
               [{"bytes": "YQ==", "path": "p"}, None]),
    "lists": (pa.array([[Decimal("1.50")], None, []], pa.list_(pa.decimal128(10, 2))),
              [["1.50"], None, []]),
    "map": (pa.array([[(1, "a")], None], pa.map_(pa.int8(), pa.string())), [[[1, "a"]], None]),
    "dictionary": (pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
    "runs": (pa.RunEndEncodedArray.from_arrays([2, 3], ["a", None]), ["a", "a", None]),
    "views": (pa.array([["a"], None], pa.list_(pa.string_view())), [["a"], None]),
    "nothing": (pa.nulls(2), [None, None]),
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_a_value_is_written_as_the_documentation_says(name: str) -> None:
    column, expected = VALUES[name]
    assert why_not_held(column.type) is None
    plain = as_plain(column)
    for held in (plain, pa.chunked_array([plain.slice(0, 1), plain.slice(1)])):
        assert json_values(held, Counter()) == expected


def test_numbers_that_json_has_not_are_null_and_counted() -> None:
    column = pa.array([[1.0, float("nan")], [float("inf"), None], [-float("inf")], None])
    lost: Counter[str] = Counter()
    assert json_values(column, lost) == [[1.0, None], [None, None], [None], None]
    assert lost == {"NaN": 1, "infinity": 2}


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (pa.dense_union([pa.field("a", pa.int8())]), "not supported"),
        (pa.month_day_nano_interval(), "not supported"),
        (pa.struct([]), "no child field"),
        (pa.list_(pa.struct([("a", pa.int8()), ("a", pa.int8())])), "two fields named 'a'"),
        (pa.list_(pa.list_view(pa.int8())), "list view"),
        (pa.struct([("a", pa.run_end_encoded(pa.int32(), pa.string()))]), "not supported"),
    ],
)
def test_a_type_without_a_place_in_parquet_is_refused(kind: pa.DataType, why: str) -> None:
    assert why in str(why_not_held(kind))


@given(st.data())
@settings(max_examples=EXAMPLES, deadline=None)
def test_every_other_type_is_held_with_its_values(data: st.DataObject) -> None:
    column = data.draw(columns(rows=4))
    if (why := why_not_held(column.type)) is not None:
        assert "extension" in str(column.type) and "MakeBuilder" in why
        return
    plain = as_plain(column)
    assert plain.type == plain_type(column.type) == plain_type(plain.type)
    values = json_values(plain, Counter())
    assert len(orjson.loads(orjson.dumps(values))) == len(column)
    assert [value is None for value in values] == _nulls(column, plain, values)
    taken = plain.take(pa.array([3, 1]))
    assert json_values(taken, Counter()) == [values[3], values[1]]
    assert json_values(plain.slice(1, 2), Counter()) == values[1:3]


def _nulls(column: pa.Array, plain: Any, values: list[Any]) -> list[bool]:
    """Which values must be null: those that are null, and numbers that JSON has not."""
    if pa.types.is_floating(column.type):
        return [value.as_py() is None or not abs(value.as_py()) < float("inf") for value in column]
    return [not value for value in column.is_valid().to_pylist()]
