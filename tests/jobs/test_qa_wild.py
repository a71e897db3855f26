"""A wild source through all of `qa_distillation`'s first half: nothing hangs, nothing is lost."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import yaml
from support.command import REPOSITORY, Command
from support.mock_openai import MockServer

STAGES = yaml.safe_load((REPOSITORY / "configs/qa_distillation/demo.yaml").read_text())["stages"]

ROWS = [
    *[("Who wrote Emma?", "Jane Austen")] * 60,
    *[("", "")] * 20,
    ("What did Jane Austen write?", "Emma and other novels " * 5_000),
    ("?!", "…"),
    ("𝔘𝔫𝔦", "\u202e"),
    ("a\u0000b", "x"),
    ("日本で一番高い山は?", "富士山"),
]


def test_a_wild_source(command: Command, tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    with source.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("Question", "Answer"), *ROWS])
    with MockServer() as server:
        config = {
            "name": "qa-distillation",
            "run_dir": str(tmp_path / "run"),
            "until": "accept-paraphrases",
            "source": {
                "path": str(source),
                "columns": {"question": "Question", "answer": "Answer"},
            },
            "llms": {
                "rewriter": {
                    "engine": "openai",
                    "model": "m",
                    "base_url": server.base_url,
                    "api_keys_env": [],
                    "reasks": 0,
                }
            },
            "budget": {"max_failed_rows": "100%"},
            "stages": STAGES,
        }
        config_file = tmp_path / "config.yaml"
        config_file.write_text(yaml.safe_dump(config))
        done = command("run", config_file)
    assert done.code == 0, done.text
    assert "Traceback" not in done.text
    ledger = json.loads((tmp_path / "run/ledger.json").read_text())
    stages = {stage["name"]: stage for stage in ledger["stages"]}
    assert stages["source"]["rows_in"] == len(ROWS)
    arrived = 0
    for stage in ledger["stages"]:
        left = stage["kept"] + stage["dropped"] + stage["failed"]
        assert stage["rows_in"] + stage["created"] == left
        arrived = stage["kept"]
    assert arrived >= stages["augment-formal"]["rows_in"]
    assert stages["exact-duplicates"]["dropped"] == 59
    report = (tmp_path / "run/report.html").read_text()
    assert "<html" in report
    assert len(report) < 3_000_000
