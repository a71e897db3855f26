"""Small inputs that went wrong in other tools, through the commands: what a user sees of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from support.command import TESTS, Command, Finished, InProcess

CASES = TESTS / "cases"
COLUMNS = {"question": "Question", "answer": "Answer"}
#: All that a toy job says of its source.
SOURCE: dict[str, Any] = {"columns": COLUMNS}


@pytest.fixture
def alone(tmp_path: Path) -> Command:
    """The command in this process; what these tests do ends before a cluster is needed."""
    return InProcess(tmp_path)


def config_of(folder: Path, path: Path, **keys: Any) -> Path:
    """The configuration of a job that reads questions and answers as text, and changes nothing."""
    config = {
        "name": "toy",
        "job": str(TESTS / "support" / "jobs" / "toy_pairs.py"),
        "run_dir": str(folder / "run"),
        "source": {"path": str(path), "columns": COLUMNS},
        "export": {"formats": ["csv", "jsonl", "parquet"]},
        **keys,
    }
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def assert_in(done: Finished, *parts: str, code: int = 0) -> None:
    assert done.code == code, done.text
    assert "Traceback" not in done.text
    words = " ".join(done.text.split())
    for part in parts:
        assert part in words, done.text


def exported(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "run/exports/dataset.jsonl").open()]


def test_mixed_values_come_out_as_they_went_in(command: Command, tmp_path: Path) -> None:
    config = config_of(tmp_path, CASES / "mixed.jsonl", budget={"max_failed_rows": 2})
    answer = "column 'answer' has true or false and numbers and lists or objects and text, and is"
    seen = [answer, "a list or an object fails its row", "column 'id' has numbers and text"]
    assert_in(command("plan", config), *seen)
    assert_in(command("run", config), *seen)
    assert_in(command("status", tmp_path / "run"), *seen, "2 source source:type")
    rows = exported(tmp_path)
    assert [row["answer"] for row in rows] == ["Me", "42", "true", "x"]
    ids = [1, "x2", 123456789012345678901234567890, 1.5]
    assert [row["id"] for row in rows] == ids
    with (tmp_path / "run/exports/dataset.csv").open(newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == [str(value) for value in ids]
    table = pq.read_table(tmp_path / "run/exports/dataset.parquet")
    assert table["id"].to_pylist() == [str(value) for value in ids]


def test_a_key_that_is_twice_is_told(alone: Command, tmp_path: Path) -> None:
    done = alone("plan", config_of(tmp_path, CASES / "twice.jsonl"))
    assert_in(done, "line 1: the key 'Answer' is there more than once", "its last value counts")


def test_an_empty_part_is_told_and_passed_over(alone: Command, tmp_path: Path) -> None:
    done = alone("plan", config_of(tmp_path, CASES / "parts"))
    assert_in(done, "part-00001.jsonl: an empty file, passed over", "source run 2")


def test_rows_under_a_key_are_told(alone: Command, tmp_path: Path) -> None:
    done = alone("plan", config_of(tmp_path, CASES / "wrapped.json"))
    assert_in(done, "its rows are the list under the key 'data'", "source run 1")


def test_a_file_of_which_no_row_can_be_read_is_refused(alone: Command, tmp_path: Path) -> None:
    for done in alone.both(config_of(tmp_path, CASES / "cp1252.csv")):
        assert_in(done, "no row in it can be read", "set source.encoding: cp1252", code=2)
    config = config_of(tmp_path, CASES / "cp1252.csv")
    with config.open("a") as file:
        file.write("source.encoding: cp1252\n")
    assert_in(alone("plan", config), "source run 2")
