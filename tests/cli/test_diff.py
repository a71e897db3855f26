from __future__ import annotations

import json
from pathlib import Path

from support.command import Command
from support.made_qa_run import Row, made_qa_run

FIRST = 1  # position of a row that nothing else drops


def drop_one(stage: str, row: Row) -> None:
    if stage == "clean-text" and row["position"] == FIRST:
        row["status"], row["reason"] = "dropped", "text:short: one word"


def test_says_what_differs_as_text_and_as_json(tmp_path: Path) -> None:
    made_qa_run(str(tmp_path / "a"), 100, 20)
    made_qa_run(str(tmp_path / "b"), 100, 20, change=drop_one)
    command = Command(None, tmp_path)
    plain = command("diff", "a", "b")
    assert plain.code == 0 and "Rows kept in the end" in plain.out and not plain.err
    told = command("diff", "a", "b", "--json")
    data = json.loads(told.out)
    assert told.code == 0
    assert data["rows"]["only_a"] == sum(data["rows"]["why_only_a"].values())
    assert {"key": "seconds", "a": 73.0, "b": 73.0, "delta": 0.0} in data["effort"]
    wrong = command("diff", "a", "c")
    assert wrong.code == 2 and not wrong.out
    assert len(wrong.err.strip().splitlines()) == 1 and "c: not a run directory" in wrong.err
