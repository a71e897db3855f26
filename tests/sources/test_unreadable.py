"""Files that are empty, in another encoding, or something else in the place of the data."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from support.source_reading import TEXT, look, read_all, rows_of

from ray_pipeline.core.errors import UserError

CASES = Path(__file__).parents[1] / "cases"
QA = {"Question": TEXT, "Answer": TEXT}
FRENCH = "Question,Answer\nQui a écrit ce livre ?,Un auteur né à Besançon – dit-on\n"
LINE = '{"Question": "q", "Answer": "a"}\n'
POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


def refused(path: Path, tmp_path: Path) -> str:
    with pytest.raises(UserError) as caught:
        look(path, tmp_path / "scratch", QA)
    return str(caught.value)


def pasted(message: str) -> dict[str, str]:
    """The settings of the fix at the end of a message."""
    settings: dict[str, str] = yaml.safe_load(message.rpartition(" set source.")[2])
    return settings


# Encodings


@pytest.mark.parametrize(
    ("name", "encoding", "found"),
    [
        ("a.csv", "cp1252", "cp1252"),
        ("a.csv", "latin-1", "latin-1"),
        ("a.jsonl", "cp1252", "cp1252"),
        ("a.csv.gz", "cp1252", "cp1252"),
    ],
)
def test_rows_in_another_encoding_are_refused_with_it(
    tmp_path: Path, name: str, encoding: str, found: str
) -> None:
    text = FRENCH if "csv" in name else '{"Question": "Où ?", "Answer": "Là – bas"}\n'
    data = text.replace("–", "-" if encoding == "latin-1" else "–").encode(encoding)
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    message = refused(path, tmp_path)
    assert "no row in it can be read, the only row would fail; row 1: cannot be read: " in message
    assert f"In {found} it is " in message and ("écrit" in message or "Où" in message)
    assert pasted(message) == {"encoding": found} or f"source.encoding: {found}" in message
    table = read_all(look(path, tmp_path / "scratch", QA, encoding=found))
    assert set(table["status"].to_pylist()) == {"kept"}


def test_the_cp1252_case(tmp_path: Path) -> None:
    message = refused(CASES / "cp1252.csv", tmp_path)
    assert "cp1252.csv: no row in it can be read, all 2 rows would fail; row 1: " in message
    assert message.endswith("set source.encoding: cp1252")


def test_an_encoding_that_cannot_be_told_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"Question,Answer\n" + "何ですか,答え\n".encode("shift_jis"))
    assert "Set source.encoding to that of the file" in refused(path, tmp_path)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_its_mark_is_recognised(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(FRENCH.encode(encoding))
    assert f"UTF-16 text: set source.encoding: {encoding}" in refused(path, tmp_path)
    table = read_all(look(path, tmp_path / "scratch", QA, encoding=encoding))
    assert table["Question"].to_pylist() == ["Qui a écrit ce livre ?"]


def test_one_file_of_several_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Question,Answer\nq,a\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text(FRENCH, encoding="cp1252")
    found = look(tmp_path, tmp_path / "scratch", QA)
    (note,) = found.notes
    assert "b.csv: no row in it can be read, the only row would fail" in note
    assert read_all(found)["status"].to_pylist() == ["kept", "failed"]


# Something else than the data


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (POINTER, ["a pointer of Git LFS", "`git lfs pull`"]),
        ("\n<!DOCTYPE html>\n<html><body>404</body></html>", ["an HTML page", "download it again"]),
        ('<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', ["an XML file"]),
    ],
)
def test_what_was_saved_in_place_of_the_data(
    tmp_path: Path, name: str, content: str, parts: list[str]
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    message = refused(tmp_path / name, tmp_path)
    for part in (f"{name}: expected", *parts):
        assert part in message


def test_a_cut_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"Question": ["q"], "Answer": ["a"]}), path)
    path.write_bytes(path.read_bytes()[:-30])
    assert "something else or a cut file" in refused(path, tmp_path)


# Empty files


def test_the_case_of_an_empty_part(tmp_path: Path) -> None:
    found = look(CASES / "parts", tmp_path, QA)
    (note,) = found.notes
    assert note == f"{CASES}/parts/part-00001.jsonl: an empty file, passed over"
    answers = [("It is the first.",), ("It is the third.",)]
    assert rows_of(read_all(found), "Answer") == answers


@pytest.mark.parametrize(
    "name", ["b.jsonl", "b.json", "b.csv", "b.csv.gz", "b.jsonl.zst", "b.parquet"]
)
def test_an_empty_file_among_others_is_passed_over(tmp_path: Path, name: str) -> None:
    data = {"gz": gzip.compress(b""), "zst": pa.compress(b"", "zstd", asbytes=True)}
    (tmp_path / name).write_bytes(data.get(name.rpartition(".")[2], b""))
    (tmp_path / "a.jsonl").write_text(LINE, encoding="utf-8")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".part.crc").write_bytes(b"crc")
    for path in (tmp_path, tmp_path / "*"):
        found = look(path, tmp_path / "scratch", QA)
        assert found.rows == 1
        assert found.notes == (f"{tmp_path}/{name}: an empty file, passed over",)


@pytest.mark.parametrize("name", ["b.json", "b.csv", "b.parquet", "c.parquet"])
def test_a_file_without_rows_among_others_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.jsonl").write_text(LINE, encoding="utf-8")
    path = tmp_path / name
    if name.endswith("parquet"):
        columns = {"Question": pa.array([], TEXT), "Answer": pa.array([], TEXT)}
        pq.write_table(pa.table(columns if name == "b.parquet" else {}), path)
    else:
        path.write_text("[]" if name == "b.json" else "Question,Answer\n", encoding="utf-8")
    (note,) = look(tmp_path, tmp_path / "scratch", QA).notes
    assert note.startswith(f"{path}: ")


def test_files_that_are_all_empty_are_refused(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).touch()
    assert "no rows in it: expected at least one (2 files, all of them empty)" in refused(
        tmp_path, tmp_path
    )


# Wildcards in names


def test_a_folder_that_exists_is_taken_by_its_name(tmp_path: Path) -> None:
    for folder in ("run [1]", "run 1"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jsonl").write_text(LINE.replace('"q"', f'"{folder}"'))
    by_name = {
        "run [1]": "taken by its name, not as a pattern",
        "run [1]/a.jsonl": "taken by its name, not as a pattern",
        "run [1]/*.jsonl": "its folders that exist taken by their names: 1 file matches",
    }
    for path, note in by_name.items():
        found = look(tmp_path / path, tmp_path / "scratch", QA)
        assert read_all(found)["Question"].to_pylist() == ["run [1]"], path
        assert note in found.notes[0]
    found = look(tmp_path / "run [12]" / "a.jsonl", tmp_path / "scratch", QA)
    assert read_all(found)["Question"].to_pylist() == ["run 1"]
    assert "read as a pattern: 1 file matches" in found.notes[0]
    assert look(tmp_path / "run 1" / "*.jsonl", tmp_path / "scratch", QA).notes == ()
    message = refused(tmp_path / "run [1]" / "b.jsonl", tmp_path)
    assert "there is no such file in the folder" in message
    assert "[[] is a bracket itself" in refused(tmp_path / "run [3]" / "a.jsonl", tmp_path)
