"""JSON lines and arrays: exact types, exact text, and bad lines that stay alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.source_reading import TEXT, look, read_all, rows_of

from ray_pipeline.core.json_values import json_text
from ray_pipeline.sources import json as json_format

TEXTS = st.text(st.characters(codec="utf-8"), max_size=10)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
ROWS = st.lists(st.fixed_dictionaries({"q": TEXTS, "v": VALUES}), min_size=1, max_size=15)
AGAIN = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def values_of(table: pa.Table, name: str, rows: list[dict[str, Any]]) -> list[Any]:
    """A column's values; parsed, if they have no common type."""
    values = table[name].to_pylist()
    kinds = {type(row[name]) for row in rows if row[name] is not None}
    as_json = len(kinds) > 1 or kinds & {list, dict}
    return [json.loads(json_text(v)) if as_json and v is not None else v for v in values]


@AGAIN
@given(rows=ROWS, unit_rows=st.integers(1, 6), ascii=st.booleans())
def test_any_values_come_back(
    tmp_path: Path, rows: list[dict[str, Any]], unit_rows: int, ascii: bool
) -> None:
    path = write(tmp_path / "a.jsonl", [json.dumps(row, ensure_ascii=ascii) for row in rows])
    table = read_all(look(path, tmp_path, {"q": TEXT}, unit_rows))
    assert table["q"].to_pylist() == [row["q"] for row in rows]
    assert values_of(table, "v", rows) == [row["v"] for row in rows]
    assert set(table["status"].to_pylist()) == {"kept"}


@AGAIN
@given(rows=ROWS, indent=st.sampled_from([None, 1]), chunk=st.integers(1, 40))
def test_an_array_is_the_same_as_lines(
    tmp_path: Path, rows: list[dict[str, Any]], indent: int | None, chunk: int
) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    text = json.dumps(rows, ensure_ascii=False, indent=indent).encode()
    chunks = (text[n : n + chunk] for n in range(0, len(text), chunk))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_format, "_CHUNK", chunk)
        made = b"".join(json_format._lines_of_array(chunks, "a.json")).decode()
    parsed = [json.loads(line) for line in made.split("\n") if line]
    assert parsed == [json.loads(line) for line in lines]


def test_array_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes('\ufeff [ {"q": "ä\\n"},\r\n\t{"q": "b"}, 5 ]\n'.encode())
    table = read_all(look(path, tmp_path / "scratch", {"q": TEXT}, 2))
    assert rows_of(table, "q", "status") == [("ä\n", "kept"), ("b", "kept"), (None, "failed")]
    assert len(list((tmp_path / "scratch").iterdir())) == 1


def test_json_file_of_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", ['{"q": "a"}', '{"q": "b"}'])
    found = look(path, tmp_path / "scratch", {"q": TEXT})
    assert read_all(found)["q"].to_pylist() == ["a", "b"]
    assert found.units[0].uri == str(path)


def test_malformed_lines_fail_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"q": "a", "answer": "x"}\n'
        b"\n"
        b'{"q": "b", "answer": \n'
        b"[1, 2]\r\n"
        b'{"q": "caf\xe9", "answer": "y"}\n'
        b'{"q": "n", "answer": 42}\n'
        b'{"q": "list", "answer": [1]}\n'
        b'{"q": "half \\ud800", "answer": "z"}\n'
        b'{"q": "no answer"}\n'
        b'{"q": "last", "answer": "w"}'
    )
    found = look(path, tmp_path, {"q": TEXT, "answer": TEXT}, unit_rows=2)
    table = read_all(found)
    assert found.malformed == 4
    assert rows_of(table, "q", "answer", "status") == [
        ("a", "x", "kept"),
        (None, None, "failed"),
        (None, None, "failed"),
        ("caf�", "y", "failed"),
        ("n", "42", "kept"),
        ("list", "[1]", "failed"),
        (None, None, "failed"),
        ("no answer", None, "kept"),
        ("last", "w", "kept"),
    ]
    reasons = table["reason"].to_pylist()
    assert reasons[1].startswith("source:json: Expecting value")
    assert reasons[2] == "source:not_an_object: found [1, 2]"
    assert reasons[3] == "source:undecodable: byte 0xe9 at 10 is not utf-8"
    assert reasons[5].startswith("source:type: column 'answer': expected text, found list [1]")
    assert reasons[6].startswith("source:json: ")
    raw = table["source_raw"].to_pylist()
    assert raw[1] == '{"q": "b", "answer": ' and raw[2] == "[1, 2]" and raw[4] is None


@pytest.mark.parametrize(
    ("values", "type", "expected"),
    [
        ([1, 2], pa.int64(), [1, 2]),
        ([1, 2.5, None], pa.float64(), [1.0, 2.5, None]),
        ([2**60, 1], pa.int64(), [2**60, 1]),
        # A double would change the integer.
        ([2**60 + 1, 0.5], pa.string(), [str(2**60 + 1), "0.5"]),
        ([2**63, 1], pa.string(), [str(2**63), "1"]),
        ([True, None], pa.bool_(), [True, None]),
        ([True, 1], pa.string(), ["true", "1"]),
        (["a", 1], pa.string(), ["a", "1"]),
        # The text "1" and the number 1 stay apart.
        (["1", 1], pa.string(), ['"1"', "1"]),
        ([{"b": [1]}, None], pa.string(), ['{"b":[1]}', None]),
        ([None, None], pa.string(), [None, None]),
    ],
)
def test_types_come_from_all_rows(
    tmp_path: Path, values: list[Any], type: pa.DataType, expected: list[Any]
) -> None:
    path = write(tmp_path / "a.jsonl", [json.dumps({"q": "x", "v": v}) for v in values])
    table = read_all(look(path, tmp_path, {"q": TEXT}, 1))
    assert table["v"].type == type
    assert table["v"].to_pylist() == expected


def test_not_a_number_is_read_as_python_writes_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [json.dumps({"v": float("inf")}), '{"v": NaN}'])
    values = read_all(look(path, tmp_path))["v"].to_pylist()
    assert values[0] == float("inf") and values[1] != values[1]


def test_keys_that_only_some_rows_have(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ['{"a": "1"}', '{"b": 2, "a": "3"}'])
    table = read_all(look(path, tmp_path, {"a": TEXT}, 1))
    assert rows_of(table, "a", "b") == [("1", None), ("3", 2)]


def test_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"q": "é"}\n{"q": 1.50}\n{"q": ["é"]}\n'.encode("latin-1"))
    table = read_all(look(path, tmp_path, {"q": TEXT}, encoding="latin-1"))
    assert rows_of(table, "q", "status") == [("é", "kept"), ("1.50", "kept"), ('["é"]', "failed")]
