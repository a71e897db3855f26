"""Values of JSON files are never altered: numbers keep their digits, a text stays that text."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.soak import EXAMPLES
from support.source_reading import TEXT, look, read_all, rows_of

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.json_values import holds_json, json_text

CASES = Path(__file__).parents[1] / "cases"
AGAIN = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

TEXTS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["42", "true", "null", "[1]", '{"a":1}', '"', "-0", "1e5", "x\\", '":', "NaN"]
)
INTEGERS = st.integers(-100, 100) | st.integers(-(10**40), 10**40)
SPACE = st.sampled_from(["", " ", "\t", "  "])


@st.composite
def numbers(draw: Any) -> str:
    """A number in any form that JSON has."""
    fraction = draw(st.just("") | st.from_regex(r"\.[0-9]{1,25}", fullmatch=True))
    exponent = draw(st.just("") | st.from_regex(r"[eE][+-]?[0-9]{1,4}", fullmatch=True))
    number = draw(INTEGERS)
    sign = "-" if number == 0 and draw(st.booleans()) else ""
    return f"{sign}{number}{fraction}{exponent}"


NUMBERS = numbers() | st.floats(allow_nan=False, allow_infinity=False).map(repr)
STRINGS = st.builds(lambda text, ascii: json.dumps(text, ensure_ascii=ascii), TEXTS, st.booleans())
SCALARS = st.sampled_from(["null", "true", "false"]) | NUMBERS | STRINGS


def _list(values: list[str], space: str) -> str:
    return "[" + f",{space}".join(f"{value}{space}" for value in values) + "]"


def _object(pairs: list[tuple[str, str]], space: str) -> str:
    members = (f"{space}{key}{space}:{space}{value}{space}" for key, value in pairs)
    return "{" + ",".join(members) + "}"


#: JSON in any form that has it on one line.
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.builds(_list, st.lists(inner, max_size=3), SPACE)
        | st.builds(_object, st.lists(st.tuples(STRINGS, inner), max_size=3), SPACE)
    ),
    max_leaves=6,
)
#: A column is of one kind, or mixed.
COLUMNS = st.sampled_from([VALUES, SCALARS, NUMBERS, STRINGS, INTEGERS.map(str)])


@st.composite
def sources(draw: Any) -> tuple[list[str], list[str], list[str]]:
    """The lines of a file, and the JSON of its columns `carried` and `text`."""
    of_carried, of_text = draw(COLUMNS), draw(st.sampled_from([VALUES, SCALARS]))
    carried, text, lines = [], ['"at least one"'], []
    for number in range(draw(st.integers(1, 6))):
        carried.append(draw(of_carried))
        text.append(draw(of_text)) if number else None
        pairs = [('"carried"', carried[-1]), ('"text"', text[-1]), ('"q"', '"q"')]
        lines.append(_object(draw(st.permutations(pairs)), draw(SPACE)))
    return lines, carried, text


def exact(text: str) -> Any:
    """A JSON value with its numbers as decimals, so that equal means equal in every digit."""
    return json.loads(text, parse_int=Decimal, parse_float=Decimal)


def came_out(value: Any, is_json: bool) -> Any:
    """A value of a carried column, in the same form."""
    if value is None or isinstance(value, bool):
        return value
    if is_json:
        return exact(json_text(value))
    return value if isinstance(value, str) else Decimal(repr(value))


@AGAIN
@given(source=sources(), unit_rows=st.integers(1, 4), nested=st.sampled_from(["fail", "json"]))
def test_any_json_is_carried_exactly_and_read_as_text_as_it_is_written(
    tmp_path: Path, source: tuple[list[str], list[str], list[str]], unit_rows: int, nested: str
) -> None:
    lines, carried, text = source
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    table = read_all(look(path, tmp_path, {"q": TEXT, "text": TEXT}, unit_rows, nested=nested))
    is_json = holds_json(table.schema.field("carried"))
    for value, written in zip(table["carried"].to_pylist(), carried, strict=True):
        assert came_out(value, is_json) == exact(written)
        if (
            is_json
            and exact(written) is not None
            and not isinstance(exact(written), str | list | dict)
        ):
            assert json_text(value) == written  # to the last zero
    for (value, status), written in zip(rows_of(table, "text", "status"), text, strict=True):
        meant = exact(written)
        is_nested = isinstance(meant, list | dict)
        assert status == ("failed" if is_nested and nested == "fail" else "kept")
        if is_nested:
            assert exact(value) == meant
        else:
            assert value == (meant if meant is None or isinstance(meant, str) else written)


def test_the_mixed_case(tmp_path: Path) -> None:
    columns = {"question": "Question", "answer": "Answer"}
    required = {"question": TEXT, "answer": TEXT}
    found = look(CASES / "mixed.jsonl", tmp_path, required, columns=columns)
    table = read_all(found)
    assert rows_of(table, "answer", "status") == [
        ("Me", "kept"),
        ("42", "kept"),
        ("true", "kept"),
        ("x", "kept"),
        ("[2,3,5]", "failed"),
        ('{"x":1,"y":2}', "failed"),
    ]
    reason = table["reason"].to_pylist()[4]
    assert "column 'answer': expected text, found list [2,3,5]" in reason
    assert "nested: json" in reason
    ids = [None if value is None else json_text(value) for value in table["id"].to_pylist()]
    assert ids == ["1", '"x2"', "123456789012345678901234567890", "1.5", None, "2"]
    table = read_all(
        look(CASES / "mixed.jsonl", tmp_path, required, columns=columns, nested="json")
    )
    assert set(table["status"].to_pylist()) == {"kept"}


def test_an_object_that_has_a_key_twice_is_noted_by_line(tmp_path: Path) -> None:
    found = look(CASES / "twice.jsonl", tmp_path, {"Answer": TEXT})
    (note,) = found.notes
    assert "twice.jsonl: line 1: the key 'Answer' is there more than once" in note
    assert "its last value counts" in note
    assert read_all(found)["Answer"].to_pylist() == ["the second", "the only one"]


def test_of_many_lines_with_a_key_twice_some_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = ['{"a": "1", "b": {"c": 1, "c": 2}}', "", '{"a": "x"}'] * 5
    path.write_text("\n".join(lines), encoding="utf-8")
    found = look(path, tmp_path, {"a": TEXT})
    (note,) = found.notes
    assert "lines 1, 4, 7 and 2 more: the key 'c' is there more than once" in note
    assert read_all(found)["b"].to_pylist()[0] == '{"c":1,"c":2}'  # as it is carried


@pytest.mark.parametrize(
    ("values", "type"),
    [
        (["1.50", "2"], pa.float64()),
        (["0.1", "0.30000000000000004"], pa.float64()),
        (["100000000000000000000.0"], pa.float64()),
        (["0.10000000000000000001"], None),
        (["1e400"], None),
        (["1e-400"], None),
        (["1" * 5000], None),
        (["9223372036854775808"], None),
        (["9223372036854775807"], pa.int64()),
    ],
)
def test_a_type_is_chosen_only_if_it_holds_every_number(
    tmp_path: Path, values: list[str], type: pa.DataType | None
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(f'{{"v": {value}}}' for value in values), encoding="utf-8")
    table = read_all(look(path, tmp_path))
    assert holds_json(table.schema.field("v")) == (type is None)
    if type is None:
        assert table["v"].to_pylist() == values
    else:
        assert table["v"].type == type


def test_deep_nesting_is_carried(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    deep = "[" * 500 + "]" * 500  # deeper than the fast parser reads, and orjson writes
    path.write_text(f'{{"q": "a", "v": {deep}}}\n', encoding="utf-8")
    table = read_all(look(path, tmp_path, {"q": TEXT}))
    assert rows_of(table, "v", "status") == [(deep, "kept")]


def test_a_type_of_one_file_may_be_text_in_another(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"q": "x", "id": "7"}\n', encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"q": 1.50, "id": 7}\n', encoding="utf-8")
    table = read_all(look(tmp_path / "*.jsonl", tmp_path, {"q": TEXT}))
    assert rows_of(table, "q", "id") == [("x", '"7"'), ("1.50", "7")]


def test_a_column_of_lists_only_is_text_where_the_configuration_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"q": ["x", 1.0]}\n', encoding="utf-8")
    with pytest.raises(UserError, match="column 'q': expected text, found other in all of it"):
        look(tmp_path / "a.jsonl", tmp_path, {"q": TEXT})
    table = read_all(look(tmp_path / "a.jsonl", tmp_path, {"q": TEXT}, nested="json"))
    assert rows_of(table, "q", "status") == [('["x",1.0]', "kept")]
