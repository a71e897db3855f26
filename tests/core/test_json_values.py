"""Columns of JSON values: any text and any JSON come back, and are told apart."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_pipeline.core.json_values import (
    finite_json,
    holds_json,
    json_columns,
    json_field,
    json_text,
    plain_text,
    stored_text,
    unchanged_field,
)

ODD = ["42", "-0", "1e400", "01", "1.", " 1", "1 ", "true", "nul", "NaN", "-Infinity", "[1", "[1]"]
ODD += [
    '"',
    '"a"',
    '{"a": 1e999}',
    "[NaN]",
    "[" * 5000,
    "[" * 300 + "]" * 300,
    "٤٢",
    "",
    "{}",
    "4" * 5000,
]


@pytest.mark.parametrize("text", ODD)
def test_a_text_that_looks_like_json_stays_a_text(text: str) -> None:
    assert plain_text(stored_text(text)) == text
    assert json_text(stored_text(text))[0] == '"'


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=12))
def test_any_text_comes_back(text: str) -> None:
    assert plain_text(stored_text(text)) == text
    assert json_text(stored_text(text))[0] == '"'


@pytest.mark.parametrize(
    "value", ["42", "1.50", "1e5", "1" * 30, "9" * 5000, "true", "[2,3,5]", '{"x":1e400}', "[NaN]"]
)
def test_other_values_are_their_json(value: str) -> None:
    assert json_text(value) == plain_text(value) == value


def test_most_texts_are_stored_as_they_are() -> None:
    assert [stored_text(text) for text in ("Me", "4 apples", "[sic] so", "")] == [
        "Me", "4 apples", "[sic] so", "",
    ]  # fmt: skip


def test_the_mark_stays_with_a_column_that_no_stage_writes() -> None:
    schema = pa.schema([json_field("id"), pa.field("x", pa.string(), metadata={b"k": b"v"})])
    assert json_columns(schema) == ["id"]
    assert unchanged_field(schema.field("id")).metadata == json_field("id").metadata
    assert unchanged_field(schema.field("x")).metadata is None
    assert not holds_json(pa.field("id", pa.string()))


def test_numbers_that_json_has_no_form_for_are_null_and_counted() -> None:
    assert finite_json('[NaN,-Infinity,"NaN \\" Infinity",{"NaN":1e400}]') == (
        '[null,null,"NaN \\" Infinity",{"NaN":1e400}]',
        2,
    )
    assert finite_json("Infinity") == ("null", 1)
    assert finite_json('"NaN"') == ('"NaN"', 0)
