"""Where files lie: folders, patterns, and an object storage on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.source_reading import TEXT, look, read_all, write_csv

from ray_pipeline.core.errors import UserError
from ray_pipeline.sources.files import locate


def test_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "deeper").mkdir(parents=True)
    write_csv(folder / "b.csv", [("2", "b")])
    write_csv(folder / "a.TSV", [("1", "a")], delimiter="\t")
    write_csv(folder / "deeper" / "c.csv", [("3", "c")])
    (folder / "README.md").write_text("not data", encoding="utf-8")
    (folder / "_SUCCESS").write_text("", encoding="utf-8")
    assert read_all(look(folder, tmp_path))["question"].to_pylist() == ["1", "2"]
    table = read_all(look(folder / "**" / "*.csv", tmp_path))
    assert table["question"].to_pylist() == ["2", "3"]
    with pytest.raises(UserError, match=r"README\.md: unknown extension '\.md'"):
        look(folder / "*", tmp_path)


def test_a_name_with_pattern_characters_is_a_name(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "data[1].csv", [("1", "a")])
    assert look(path, tmp_path).rows == 1


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_csv(tmp_path / "a.csv", [("1", "a")])
    monkeypatch.chdir(tmp_path)
    for path in ("a.csv", "*.csv", "."):
        assert look(path, "scratch").units[0].uri == str(tmp_path / "a.csv")


@pytest.fixture(scope="module")
def bucket(s3: Any) -> str:
    return "s3://bucket"


def put(uri: str, data: bytes) -> None:
    fs, path = locate(uri)
    with fs.open_output_stream(path) as stream:
        stream.write(data)


ROWS = [{"q": f"line\nbreak {n}", "a": str(n)} for n in range(50)]


@pytest.fixture(scope="module")
def folder(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    local = tmp_path_factory.mktemp("local")
    write_csv(local / "a.csv", [(row["q"], row["a"]) for row in ROWS], ("q", "a"))
    (local / "b.jsonl").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(ROWS), local / "c.parquet")
    (local / "d.json").write_text(json.dumps(ROWS), encoding="utf-8")
    for name in ("a.csv", "b.jsonl", "c.parquet", "d.json"):
        put(f"{bucket}/data/{name}", (local / name).read_bytes())
    put(f"{bucket}/data/deep/e.csv", (local / "a.csv").read_bytes())
    put(f"{bucket}/data/notes.txt", b"no data")
    return f"{bucket}/data"


@pytest.mark.parametrize("name", ["a.csv", "b.jsonl", "c.parquet", "d.json"])
def test_object(folder: str, bucket: str, name: str) -> None:
    found = look(f"{folder}/{name}", f"{bucket}/scratch", {"q": TEXT, "a": TEXT}, unit_rows=8)
    assert read_all(found).select(["q", "a"]).to_pylist() == ROWS
    assert len(found.units) == 7
    again = look(f"{folder}/{name}", f"{bucket}/scratch", {"q": TEXT, "a": TEXT}, unit_rows=8)
    assert again.units == found.units


def test_objects(folder: str, bucket: str) -> None:
    scratch = f"{bucket}/scratch"
    assert look(folder, scratch).rows == 200
    assert look(f"{folder}/", scratch).rows == 200
    assert look(f"{folder}/*.csv", scratch).rows == 50
    assert look(f"{folder}/**/*.csv", scratch).rows == 100
    assert look([f"{folder}/?.jsonl", f"{folder}/deep/e.csv"], scratch).rows == 100


def test_the_same_content_has_the_same_ids_everywhere(folder: str, tmp_path: Path) -> None:
    local = write_csv(tmp_path / "x.csv", [(row["q"], row["a"]) for row in ROWS], ("q", "a"))
    here = read_all(look(local, tmp_path))["row_id"].to_pylist()
    assert read_all(look(f"{folder}/a.csv", tmp_path))["row_id"].to_pylist() == here


def test_missing_objects(folder: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data/z\.csv: there is no such file"):
        look(f"{folder}/z.csv", tmp_path)
    with pytest.raises(UserError, match="no file matches"):
        look(f"{folder}/*.ndjson", tmp_path)
    with pytest.raises(UserError, match=r"s3://nowhere/a\.csv: "):
        look("s3://nowhere/a.csv", tmp_path)
