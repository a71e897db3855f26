"""The `nli_reasoning` job, with a real HTTP server as its models."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.command import REPOSITORY, Command
from support.mock_openai import MockServer

from ray_pipeline.models.mistral_instruct import text
from ray_pipeline.pipeline import load_job
from ray_pipeline.stages.reasoning.pair_text import PairFormat

LABELS = ("entailment", "neutral", "contradiction")


def configured(folder: Path, server: MockServer, rows: int, **llm: Any) -> Path:
    model = {"engine": "openai", "model": "mock", "base_url": server.base_url, "reasks": 1}
    model |= {"api_keys_env": [], "concurrency": 6, **llm}
    config = {
        "name": "nli-reasoning",
        "run_dir": str(folder / "run"),
        "seed": 7,
        "unit_rows": 40,
        "source": {"path": str(REPOSITORY / "samples" / "nli.csv"), "limit": rows},
        "llms": {"thinker": model, "reflector": model | {"model": "mock-large"}},
        "budget": {"max_failed_rows": rows},
        "stages": {
            "split": {"validation": 0.2, "test": 0.2},
            "think": {"samples": 3, "temperatures": [0.0, 0.7, 1.0]},
            "reflect-1": {"llm": "reflector"},
            "blind-check-1": {"llm": "thinker", "with_thoughts": True},
            "reflect-2": {"llm": "reflector"},
            "blind-check-2": {"llm": "thinker"},
        },
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / "run" / "exports" / name).read_text())


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "run" / "exports" / name).open()]


def test_every_pair_is_thought_about_reflected_or_failed_with_its_history(
    command: Command, tmp_path: Path
) -> None:
    with MockServer(answer="label", labels=",".join(LABELS), p500=0.02) as server:
        path = configured(tmp_path, server, 90)
        done = command("run", path)
        assert done.code == 0, done.text
        stats = server.stats()
        again = command("run", path)
        assert again.code == 0, again.text
        assert server.stats()["completed"] == stats["completed"]  # nothing is asked twice
    assert stats["max_in_flight"] <= 12  # six of each model at most

    thoughts = [
        row for name in ("train", "dev", "test") for row in read(tmp_path, f"{name}_thoughts.json")
    ]
    assert len(thoughts) == 90
    wrong = {row["row_id"] for row in thoughts if row["predicted_label"] != row["true_label"]}
    test_ids = {row["row_id"] for row in read(tmp_path, "test_thoughts.json")}
    reflected = [
        row for name in ("train", "dev") for row in read(tmp_path, f"{name}_reflections.json")
    ]
    assert {row["row_id"] for row in reflected} == wrong - test_ids
    for row in reflected:
        history = json.loads(row["history"])
        assert row["state"] in ("accepted", "rejected")
        assert len(history) == row["tries"] <= 2
        assert all(each.get("rejected") for each in history[:-1])

    entries = json.loads((tmp_path / "run/ledger.json").read_text())["stages"]
    (chosen,) = [entry for entry in entries if entry["name"] == "choose-reasoning"]
    states = Counter(row["state"] for row in reflected)
    assert chosen["reasons"] == {"reflection:rejected": states["rejected"]}
    shown = command("rows", tmp_path / "run", "choose-reasoning", "--status", "failed", "--json")
    for line in shown.out.splitlines():
        assert "try 1: " in json.loads(line)["reason"]

    written = {name: lines(tmp_path, f"{name}_ft.jsonl") for name in ("train", "dev", "test")}
    ids = [row["row_id"] for rows in written.values() for row in rows]
    assert len(ids) == len(set(ids))
    form = PairFormat()
    for row in [row for rows in written.values() for row in rows]:
        user, assistant = (turn["content"] for turn in row["messages"])
        assert row["text"] == text(user, assistant, "v3")
        assert form.read(assistant, LABELS) == (row["label"], row["reasoning"])
        assert form.ask(row["premise"], row["hypothesis"]) == user
    accepted = {row["row_id"] for row in reflected if row["state"] == "accepted"}
    assert {
        r["row_id"] for r in written["train"] + written["dev"] if r["origin"] == "reflection"
    } == accepted
    assert {row["row_id"] for row in written["test"]} == test_ids - wrong
    summary = read(tmp_path, "ft_summary.json")["splits"]["train"]
    assert summary["rows"] == len(written["train"]) == sum(summary["by_label"].values())
    # Of all held-out pairs, not of those that came through.
    figures = json.loads((tmp_path / "run/metrics.json").read_text())["evaluate-pairs"]["splits"]
    test = figures["test"]["thoughts"]["models"]["thoughts"]
    assert test["rows"] == figures["test"]["rows"] == len(test_ids)
    right = len(test_ids - wrong) / len(test_ids)
    assert test["accuracy"]["value"] == pytest.approx(right)
    with (tmp_path / "run/exports/suspected_labels.csv").open() as file:
        suspected = list(csv.DictReader(file))
    assert all(
        row["label"] not in (row["predicted_label"], row["blind_label_alone"]) for row in suspected
    )


def test_the_shipped_configurations_are_those_of_the_job() -> None:
    for name in ("demo", "local", "cluster"):
        job = load_job(REPOSITORY / "configs" / "nli_reasoning" / f"{name}.yaml")
        assert [stage.name for stage in job.stages][-1] == "evaluate-pairs"
