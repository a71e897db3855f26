"""CSV: nothing is lost, whatever is in the cells, and a bad row is alone in its badness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.source_reading import TEXT, look, read_all, rows_of, write_csv

from ray_pipeline.core.rows import source_row_id
from ray_pipeline.sources import csv as csv_format

ODD = [",", ";", "\t", "|", '"', "'", "\r", "\n", " ", "\0", "\ufeff", "\u2028", "\x85", "a"]
CELLS = st.lists(st.sampled_from(ODD) | st.characters(codec="utf-8"), max_size=12).map("".join)
AGAIN = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@AGAIN
@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=20),
    unit_rows=st.integers(1, 8),
    delimiter=st.sampled_from([None, ",", ";", "\t", "|"]),
)
def test_any_cells_come_back(
    tmp_path: Path, rows: list[tuple[str, ...]], unit_rows: int, delimiter: str | None
) -> None:
    path = write_csv(tmp_path / "a.csv", rows, ("a", "b", "c"), delimiter or ",")
    found = look(path, tmp_path, unit_rows=unit_rows, delimiter=delimiter)
    table = read_all(found)
    assert rows_of(table, "a", "b", "c") == rows
    assert set(table["status"].to_pylist()) == {"kept"}
    file_id = found.units[0].file_id
    assert table["row_id"].to_pylist() == [source_row_id(file_id, n) for n in range(len(rows))]


@AGAIN
@given(
    body=st.binary(max_size=60).map(lambda b: b.replace(b"x", b'"').replace(b"y", b"\n")),
    noise=st.lists(
        st.sampled_from([b'"', b",", b"\n", b"a", b'""', b"\r\n", b"\xff"]), max_size=40
    ),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_any_bytes_give_the_same_rows_for_any_unit_size(
    tmp_path: Path, body: bytes, noise: list[bytes], sizes: tuple[int, int]
) -> None:
    data = b"a,b\nfirst,row\n" + b"".join(noise) + body.replace(b"\0", b"0")
    (tmp_path / "a.csv").write_bytes(data)
    one, two = (read_all(look(tmp_path / "a.csv", tmp_path, unit_rows=n)) for n in sizes)
    assert one.to_pylist() == two.to_pylist()
    assert one["a"][0].as_py() == "first"
    # Whatever does not end up in a good row is kept as raw text.
    letters = [c for c in data.decode("utf-8", "replace").split("\n", 2)[2] if c.isalpha()]
    there = "".join(row.get("source_raw") or f"{row['a']}{row['b']}" for row in one.to_pylist()[1:])
    assert sorted(letters) == sorted(c for c in there if c.isalpha())


def test_malformed_rows_fail_alone(tmp_path: Path) -> None:
    path = tmp_path / "qa.csv"
    path.write_bytes(
        b"question,answer,topic\n"
        b"good,one,t\n"
        b"too,few\n"
        b"too,many,t,extra,fields\n"
        b"caf\xe9,bad byte,t\n"
        b"\n"
        b"lone\rreturn,x,t\n"
        b"good,two,t\n"
    )
    found = look(path, tmp_path, {"question": TEXT, "answer": TEXT}, unit_rows=3)
    table = read_all(found)
    assert found.malformed == 4
    assert rows_of(table, "question", "answer", "topic", "status", "stage") == [
        ("good", "one", "t", "kept", None),
        ("too", "few", None, "failed", "source"),
        ("too", "many", "t", "failed", "source"),
        ("caf�", "bad byte", "t", "failed", "source"),
        (None, None, None, "failed", "source"),
        ("good", "two", "t", "kept", None),
    ]
    reasons = table["reason"].to_pylist()
    assert reasons[1] == "source:fields: expected 3 fields, found 2"
    assert reasons[2] == "source:fields: expected 3 fields, found 5"
    assert reasons[3] == "source:undecodable: column 'question': byte 0xe9 is not utf-8"
    assert reasons[4].startswith("source:csv: new-line character")
    assert table["source_raw"].to_pylist() == [
        None, "too,few", "too,many,t,extra,fields", "caf�,bad byte,t", "lone\rreturn,x,t", None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "statuses"),
    [
        # Never closed: without care the rest of the file is one cell.
        (['a,"open', "b,2", "c,3"], ["failed", "kept", "kept"]),
        # Closed by the next record's quote: without care two rows are one.
        (['a,"open', 'b,"also', "c,3"], ["failed", "failed", "kept"]),
        (['a,"over', 'lines"', "c,3"], ["kept", "kept"]),
        (['a,"text" after', "c,3"], ["kept", "kept"]),
    ],
)
def test_a_stray_quote_swallows_no_neighbours(
    tmp_path: Path, lines: list[str], statuses: list[str]
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["q,a", *lines]), encoding="utf-8")
    table = read_all(look(path, tmp_path, unit_rows=1))
    assert table["status"].to_pylist() == statuses
    assert table["q"][-1].as_py() == "c"


def test_an_open_quote_in_a_large_file_costs_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_format, "_LONGEST_RECORD", 1000)
    path = tmp_path / "a.csv"
    path.write_text("q,a\n" + "x,1\n" * 100 + 'x,"1\n' + "x,1\n" * 5000, encoding="utf-8")
    table = read_all(look(path, tmp_path, unit_rows=64))
    assert table.num_rows == 5101
    assert [n for n, s in enumerate(table["status"].to_pylist()) if s == "failed"] == [100]


def test_zero_bytes_in_a_cell(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [("a\0\0", "b")])
    assert read_all(look(path, tmp_path))["question"].to_pylist() == ["a\0\0"]


def test_long_cells_are_read(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [("x" * 1_000_000, "y")])
    assert len(read_all(look(path, tmp_path))["question"][0].as_py()) == 1_000_000


@pytest.mark.parametrize(
    ("encoding", "codec"),
    [
        ("utf-8", "utf-8-sig"),
        ("utf-8-sig", "utf-8-sig"),
        ("UTF8", "utf-8"),
        ("latin-1", "latin-1"),
        ("cp1252", "cp1252"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
        ("shift_jis", "shift_jis"),
        ("gb18030", "gb18030"),
    ],
)
def test_encodings(tmp_path: Path, encoding: str, codec: str) -> None:
    cell = "表、\nソ" if codec in ("shift_jis", "gb18030") else "é ü\n\r¿"
    path = write_csv(tmp_path / "a.csv", [(cell, "b"), ("c", cell)], encoding=codec)
    table = read_all(look(path, tmp_path, {"question": TEXT}, 1, encoding=encoding))
    assert rows_of(table, "question", "answer") == [(cell, "b"), ("c", cell)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(tmp_path: Path, delimiter: str) -> None:
    rows = [("a, b; c", "d|e"), ("", "")]
    path = write_csv(tmp_path / "a.csv", rows, ("question", "answer, short"), delimiter)
    table = read_all(look(path, tmp_path, {"question": TEXT}))
    assert rows_of(table, "question", "answer, short") == rows


def test_empty_cells_are_empty_text_and_blank_lines_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\n\na,b\n\n,\n  \nx,\n\n", encoding="utf-8")
    assert rows_of(read_all(look(path, tmp_path)), "a", "b") == [("", ""), ("x", "")]


def test_numbers_that_a_stage_asks_for(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "a.csv",
        [("1", "0.5", "True"), ("", "", ""), ("x", "1e3", "maybe"), ("2.0", "nan", "false")],
        ("n", "f", "b"),
    )
    required = {"n": pa.int64(), "f": pa.float64(), "b": pa.bool_()}
    table = read_all(look(path, tmp_path, required))
    assert table["n"].to_pylist() == [1, None, None, None]
    assert table["f"].to_pylist()[:3] == [0.5, None, 1000.0]
    assert table["b"].to_pylist() == [True, None, None, False]
    assert table["reason"].to_pylist() == [
        None,
        None,
        "source:type: column 'n': expected a whole number, found text \"x\"",
        "source:type: column 'n': expected a whole number, found text \"2.0\"",
    ]


def test_columns_without_a_name_get_one(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [("0", "x")], ("", "text"))
    assert rows_of(read_all(look(path, tmp_path)), "column_1", "text") == [("0", "x")]


def test_mapping_and_order(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [("q", "a", "t")], ("Question", "Answer", "topic"))
    config: dict[str, Any] = {"columns": {"answer": "Answer", "question": "Question"}}
    found = look(path, tmp_path, {"question": TEXT}, **config)
    assert found.schema.names == ["question", "answer", "topic"]
    assert rows_of(read_all(found), "question", "answer", "topic") == [("q", "a", "t")]
