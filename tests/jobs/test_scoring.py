"""The scorers through the command: all off, and all on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import yaml
from support.command import TESTS, Command
from support.mock_openai import MockServer
from support.tiny_models import tiny_model, word_tokenizer

ROWS = 24
SCORES = ("ifd", "novelty", "judge_score", "judge_clarity")


def configure(folder: Path, **keys: Any) -> Path:
    source = folder / "rows.jsonl"
    rows = [{"instruction": f"what is {i}", "response": "a b c d " * i} for i in range(ROWS)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "name": "scoring",
        "job": str(TESTS / "support" / "jobs" / "scoring.py"),
        "run_dir": str(folder / "run"),
        "unit_rows": 10,
        "source": {"path": str(source)},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config | keys))
    return path


def written(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "run" / "exports" / "dataset.jsonl").read_bytes()
    return [orjson.loads(line) for line in text.splitlines()]


def test_off_they_need_nothing_and_on_they_score(own_process: Command, tmp_path: Path) -> None:
    path = configure(tmp_path)
    done = own_process("run", path, RAY_PIPELINE_MODELS=str(tmp_path / "no-models"))
    assert done.code == 0, done.text
    rows = written(tmp_path)
    assert len(rows) == ROWS
    assert all(row[name] is None for row in rows for name in SCORES)
    # One segment: what is off is no pool and no file of its own.
    assert len(list((tmp_path / "run" / "stages").iterdir())) == 1

    tokenizer = word_tokenizer()
    tokenizer.save_pretrained(tmp_path / "tiny")
    tiny_model(vocabulary=len(tokenizer)).float().save_pretrained(tmp_path / "tiny")
    with MockServer() as server:
        llm = {"engine": "openai", "model": "m", "base_url": server.base_url, "api_keys_env": []}
        path = configure(
            tmp_path,
            llms={"judge": llm},
            stages={
                "score-ifd": {"model": str(tmp_path / "tiny")},
                "judge-quality": {"llm": "judge", "share": 0.5},
            },
        )
        plan = own_process("plan", path)
        assert plan.code == 0, plan.text
        lines = {line.split()[0]: line.split() for line in plan.out.splitlines() if line.strip()}
        promised = int(lines["judge-quality"][3])
        done = own_process("run", path)
        assert done.code == 0, done.text
        asked = server.stats()["arrivals"]
    rows = written(tmp_path)
    scored = [row for row in rows if row["ifd"] is not None]
    assert len(scored) == ROWS - 1  # all but the empty answer
    judged = [row for row in rows if row["judge_score"] is not None]
    assert 0 < len(judged) == asked == promised < ROWS
    assert all(0 <= row["judge_score"] <= 1 for row in judged)
    assert all(row["novelty"] is None for row in rows) and "embedding" not in rows[0]
    assert "How the scorers agree" in (tmp_path / "run" / "report.html").read_text()
