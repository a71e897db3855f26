"""A JSON file that is one object: its rows are found, or the fix says how to write it again."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.source_reading import TEXT, look, read_all, rows_of

from ray_pipeline.core.errors import UserError
from ray_pipeline.sources import text as text_format

CASES = Path(__file__).parents[1] / "cases"
QA = {"Question": TEXT, "Answer": TEXT}
ROWS = [{"Question": "q1", "Answer": "a1"}, {"Question": "q2\n]", "Answer": "é"}]
FRAME = pd.DataFrame(ROWS)


def rows_in(path: Path, tmp_path: Path) -> tuple[list[Any], tuple[str, ...]]:
    found = look(path, tmp_path / "scratch", QA)
    return rows_of(read_all(found), "Question", "Answer"), found.notes


def refused(path: Path, tmp_path: Path) -> str:
    with pytest.raises(UserError) as caught:
        look(path, tmp_path / "scratch", QA)
    return str(caught.value)


def test_the_case_of_rows_under_a_key(tmp_path: Path) -> None:
    rows, notes = rows_in(CASES / "wrapped.json", tmp_path)
    assert rows == [("In a list under a key?", "Yes it is.")]
    path = CASES / "wrapped.json"
    assert notes == (f"{path}: one object; its rows are the list under the key 'data'",)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    "around",
    [
        lambda rows: {"data": rows},
        lambda rows: {"version": 1, "meta": {"a": [1], "b": {}}, "rows": rows, "more": [[], 1]},
        lambda rows: {"empty": [], "rows": rows},
    ],
)
@pytest.mark.parametrize("small", [False, True])
def test_rows_under_a_key_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: int | None, compressed: bool,
    around: Any, small: bool,
) -> None:  # fmt: skip
    text = json.dumps(around(ROWS * 50), indent=indent, ensure_ascii=False).encode()
    path = tmp_path / ("a.json.gz" if compressed else "a.json")
    path.write_bytes(gzip.compress(text) if compressed else text)
    if small:  # a file larger than what is looked at to recognise it
        monkeypatch.setattr(text_format, "_CHUNK", 300)
        head_of = text_format.head_of
        monkeypatch.setattr(text_format, "head_of", lambda uri: head_of(uri, 300))
    rows, notes = rows_in(path, tmp_path)
    assert rows == [tuple(row.values()) for row in ROWS * 50]
    assert "its rows are the list under the key" in notes[0]


@pytest.mark.parametrize("orient", ["records", "table"])
def test_forms_of_pandas_that_have_rows_are_read(tmp_path: Path, orient: Any) -> None:
    FRAME.to_json(tmp_path / "a.json", orient=orient)
    assert rows_in(tmp_path / "a.json", tmp_path)[0] == [tuple(row.values()) for row in ROWS]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("orient", ["columns", "index", "split"])
def test_other_forms_of_pandas_are_named_with_a_fix(
    tmp_path: Path, orient: Any, indent: int | None
) -> None:
    FRAME.to_json(tmp_path / "a.json", orient=orient, indent=indent)
    message = refused(tmp_path / "a.json", tmp_path)
    assert f'what pandas\' to_json() writes with orient="{orient}"' in message
    assert 'df.to_json("rows.jsonl", orient="records", lines=True)' in message
    FRAME.to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    assert rows_in(tmp_path / "rows.jsonl", tmp_path)[0]


def test_lists_in_place_of_rows_are_named_with_a_fix(tmp_path: Path) -> None:
    FRAME.to_json(tmp_path / "a.json", orient="values")
    assert 'orient="values"' in refused(tmp_path / "a.json", tmp_path)


@pytest.mark.parametrize("small", [False, True])
def test_two_lists_of_objects_are_ambiguous(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: bool
) -> None:
    if small:
        head_of = text_format.head_of
        monkeypatch.setattr(text_format, "head_of", lambda uri: head_of(uri, 40))
    (tmp_path / "a.json").write_text(json.dumps({"train": ROWS, "test": ROWS}, indent=1))
    message = refused(tmp_path / "a.json", tmp_path)
    assert "lists of objects under 'train'" in message and "'test'" in message
    assert list((tmp_path / "scratch").glob("*")) == []


@pytest.mark.parametrize(
    "text",
    [
        '{"Question": "q", "Answer": "a", "messages": [{"role": "user"}]}',
        '{"Question": "q", "Answer": "a"}\n{"Question": "q", "Answer": "a", "n": [{}]}\n',
    ],
)
def test_lines_that_hold_lists_of_objects_are_rows(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    rows, notes = rows_in(tmp_path / "a.json", tmp_path)
    assert set(rows) == {("q", "a")} and notes == ()


@pytest.mark.parametrize("text", ['{"data": [{"Question": "q"}', '{"data": [{"Question": "q"}] x}'])
def test_a_cut_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert "a.json: " in refused(tmp_path / "a.json", tmp_path)
