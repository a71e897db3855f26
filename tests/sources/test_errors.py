"""What is wrong with a source as a whole is said before any work: where, what, and the mend."""

from __future__ import annotations

import builtins
import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.source_reading import TEXT, look, write_csv

from ray_pipeline.core.errors import UserError

QA = {"question": TEXT, "answer": TEXT}


def message(path: Any, tmp_path: Path, required: Any = None, **config: Any) -> str:
    with pytest.raises(UserError) as caught:
        look(path, tmp_path / "scratch", QA if required is None else required, **config)
    return str(caught.value)


def assert_says(text: str, *parts: str) -> None:
    for part in parts:
        assert part in text, text


def test_missing_file(tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", [])
    text = message(tmp_path / "dta.csv", tmp_path)
    assert_says(text, "dta.csv: there is no such file or directory", "did you mean 'data.csv'?")
    assert_says(message(tmp_path / "no" / "a.csv", tmp_path), "no/a.csv: there is no such file")


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_csv(tmp_path / "a.csv", [("q", "a")])
    original = builtins.open

    def refuse(file: Any, *args: Any, **options: Any) -> Any:
        if str(file) == str(path):
            raise PermissionError(13, "Permission denied")
        return original(file, *args, **options)

    monkeypatch.setattr(builtins, "open", refuse)  # root may read everything
    assert_says(message(path, tmp_path), "a.csv: no permission to read it", "give this user")


def test_folder_without_readable_files(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    assert_says(message(folder, tmp_path), "a directory without a file", "found: nothing", ".csv")
    (folder / "notes.txt").write_text("x", encoding="utf-8")
    (folder / "_part.csv").write_text("x", encoding="utf-8")
    assert_says(message(folder, tmp_path), "found: _part.csv, notes.txt", ".parquet")


def test_pattern_without_match(tmp_path: Path) -> None:
    assert_says(message(tmp_path / "*.csv", tmp_path), "*.csv: no file matches this pattern")


@pytest.mark.parametrize("name", ["a.xlsx", "a", "a.parquet.gz", "a.gz"])
def test_unknown_extension(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert_says(message(tmp_path / name, tmp_path), f"/{name}: ", "known: .csv", ".jsonl")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.parquet", "a.csv.gz"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    data = gzip.compress(b"", mtime=0) if name.endswith("gz") else b""
    (tmp_path / name).write_bytes(data)
    assert_says(message(tmp_path / name, tmp_path), f"{name}: expected", "found an empty file")


def test_no_rows(tmp_path: Path) -> None:
    assert_says(message(write_csv(tmp_path / "a.csv", []), tmp_path), "no rows in it")


@pytest.mark.parametrize(
    ("name", "data", "parts"),
    [
        ("a.parquet", b"question,answer\n", ["expected Parquet", "b'question,answer"]),
        ("a.parquet", b"PAR1 cut here", ["expected Parquet", "cut file"]),
        (
            "a.csv",
            gzip.compress(b"question,answer\n", mtime=0),
            ["expected CSV, found gzip", "add .gz"],
        ),
        ("a.csv", b"PAR1....", ["expected CSV, found a Parquet file", "name it .parquet"]),
        ("a.csv", b"PK\x03\x04..", ["found a ZIP file or a spreadsheet", "save it as CSV"]),
        ("a.csv", b"ques\0\0\0tion\n", ["expected CSV, found binary data"]),
        ("a.csv", "question,answer\n".encode("utf-16-le"), ["binary data", "UTF-16"]),
        ("a.csv", "question,answer\n".encode("utf-16"), ["UTF-16", "source.encoding: utf-16"]),
        ("a.csv", b"fr\xe9quence,answer\n", ["expected text in utf-8", "source.encoding"]),
        ("a.csv", b"question,answer\rq,a\r", ["only carriage returns"]),
        ("a.csv", b'"question,answer\nq,a\n', ["a quote in it that is never closed"]),
        ("a.csv.gz", b"question,answer\n", ["expected gzip data as its name says"]),
        ("a.csv.gz", gzip.compress(b"q" * 9999, mtime=0)[:-20], ["expected gzip data", "cut file"]),
        ("a.jsonl", b"question,answer\nq,a\n", ["none of its 2 lines is an object", "Expecting"]),
        ("a.jsonl", b'[{"question": "q"}]', ["none of its 1 lines", "array is named .json"]),
        ("a.json", b'{\n "question": "q"\n}', ["none of its 3 lines is an object"]),
        ("a.json", b'[{"question": "q"}, {', ["expected a JSON array", "after 1 elements"]),
        ("a.json", b'[{"a": 1}] [{"a": 2}]', ["'[' after the end of the array"]),
        ("a.json", b"[]", ["found an empty file"]),
    ],
)
def test_not_what_its_name_says(tmp_path: Path, name: str, data: bytes, parts: list[str]) -> None:
    (tmp_path / name).write_bytes(data)
    assert_says(message(tmp_path / name, tmp_path), f"{tmp_path / name}", *parts)


def test_missing_column(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "data.csv", [("q", "a")], ("Questoin", "Answer"))
    text = message(path, tmp_path, columns={"question": "Question", "answer": "Answer"})
    assert_says(
        text,
        "data.csv: column 'Question' (for 'question') is not there; columns: Questoin, Answer; "
        "did you mean 'Questoin'?",
        # With what is configured already: the setting replaces it.
        "source.columns: {question: Questoin, answer: Answer}",
    )
    text = message(path, tmp_path, {"answer": TEXT})
    assert_says(text, "did you mean 'Answer', which differs only in case", "{answer: Answer}")
    assert_says(message(path, tmp_path, {"label": TEXT}), "column 'label' is not there")


def test_missing_key(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "q", "anwser": "a"}\n', encoding="utf-8")
    text = message(tmp_path / "a.jsonl", tmp_path)
    assert_says(text, "column 'answer' is not there; columns: question, anwser; did you mean")


def test_a_column_missing_in_one_of_several_files(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [("q", "a")])
    write_csv(tmp_path / "b.csv", [("q", "a")], ("question", "reply"))
    assert_says(message(tmp_path / "*.csv", tmp_path), "b.csv: column 'answer' is not there")


def test_wrong_delimiter(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [("q", "a")], delimiter=";")
    text = message(path, tmp_path, delimiter=",")
    assert_says(text, "delimiter ','", "a single column", "set source.delimiter: ';'")
    path.write_text("question#answer\nq#a\n", encoding="utf-8")
    assert_says(message(path, tmp_path), "columns: question#answer", "source.delimiter")


def test_names_that_cannot_be(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [("q", "a", "x")], ("question", "answer", "answer"))
    assert_says(message(path, tmp_path), "column 'answer' is there twice")
    path = write_csv(tmp_path / "b.csv", [("q", "a", "x")], ("question", "answer", "status"))
    assert_says(message(path, tmp_path), "'status'", "source.columns: {source_status: status}")
    look(path, tmp_path, QA, columns={"source_status": "status"})
    path = write_csv(tmp_path / "c.csv", [("q", "a", "x")], ("question", "answer", "Question"))
    text = message(path, tmp_path, columns={"question": "Question"})
    assert_says(text, "two columns would be called 'question'")


def test_a_json_column_of_another_type_in_every_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": 1, "answer": "a"}\n' * 3, encoding="utf-8")
    text = message(tmp_path / "a.jsonl", tmp_path)
    assert_says(text, "column 'question': expected text, found int in all of it")


def test_unknown_encoding_and_needless_split(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [("q", "a")])
    assert_says(message(path, tmp_path, encoding="utf-9"), "unknown text encoding 'utf-9'")
    assert_says(message(path, tmp_path, split="train"), "remove source.split")
    assert_says(message([], tmp_path), "an empty list")


def test_raw_column_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"q": "a", "source_raw": 5}\nbroken\n', encoding="utf-8")
    assert_says(message(tmp_path / "a.jsonl", tmp_path, {}), "'source_raw'", "source.columns")
    (tmp_path / "a.jsonl").write_text('{"q": "a", "source_raw": "x"}\nbroken\n', encoding="utf-8")
    assert pa.types.is_string(look(tmp_path / "a.jsonl", tmp_path).schema.field("source_raw").type)
