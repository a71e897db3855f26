"""The `prompt_compression` job from prompts to corpora, and what a changed check costs."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import yaml
from support.command import REPOSITORY, Command
from support.mock_openai import MockServer

from ray_pipeline.pipeline import load_job

PROMPT = """
user: '{{ prompt | replace("the ", "") | replace("Please ", "") }}'
answer: {format: text}
"""


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_prompts_become_corpora_and_a_changed_check_asks_nothing_again(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "leave_out.yaml").write_text(PROMPT)
    lines = (REPOSITORY / "samples" / "prompts.jsonl").read_text(encoding="utf-8").splitlines()[:60]
    bad = [
        "",
        "😀",
        "[[mock:empty]] Tell me about the weather",
        "Please [[mock:filter]] do the task",
    ]
    lines += [json.dumps({"prompt": text, "response": ""}) for text in bad]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with MockServer(answer="echo") as server:
        llm = {"engine": "openai", "model": "mock", "base_url": server.base_url, "reasks": 0}
        config: dict[str, Any] = {
            "name": "prompt-compression",
            "run_dir": str(tmp_path / "run"),
            "seed": 7,
            "unit_rows": 32,
            "source": {"path": str(tmp_path / "prompts.jsonl")},
            "llms": {"compressor": {**llm, "api_keys_env": []}},
            "budget": {"max_failed_rows": 10},
            "stages": {
                "compress-primary": {"llm": "compressor", "prompt": "leave_out"},
                "check-candidates": {"rules": []},
                "split": {"validation": 0.2, "test": 0.2},
                "score-words": {"model": None},
            },
        }
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        done = command("run", path)
        assert done.code == 0, done.text
        asked = server.stats()["completed"]
        exports = tmp_path / "run" / "exports"
        made = rows_of(exports / "dolly-prompt-compression.csv")
        assert 20 < len(made) < 60
        assert all(int(row["compressed_tokens"]) < int(row["prompt_tokens"]) for row in made)
        parts = [rows_of(exports / f"dsp-{side}.csv") for side in ("train", "validation", "test")]
        assert sorted(row["row_id"] for part in parts for row in part) == sorted(
            row["row_id"] for row in rows_of(exports / "dolly-short-prompt-compression.csv")
        )
        metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())["summarise"]
        assert metrics["accepted"] == len(made)
        assert metrics["lengths"]["violations"] == 0
        assert metrics["faults"]["unchanged"] > 0
        assert "tokens of gpt2-tokenizer" in done.text

        config["stages"]["check-candidates"] = {"rules": ["articles_and_filler"]}
        path.write_text(yaml.safe_dump(config))
        again = command("run", path)
        assert again.code == 0, again.text
        assert server.stats()["completed"] == asked
        assert len(rows_of(exports / "dolly-prompt-compression.csv")) > len(made)


def test_the_shipped_configurations_are_those_of_the_job() -> None:
    for name in ("demo", "local", "cluster"):
        job = load_job(REPOSITORY / "configs" / "prompt_compression" / f"{name}.yaml")
        assert job.stages[0].name == "validate"
