"""What a user reads when a reasoning model thinks, only thinks, or is cut off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from support.command import Command
from support.html_page import Page
from support.scripted_server import Scripted, ScriptedServer, answer, cases

NAMES = ["think", "think-cut", "reasoning-only", "cut"]


def reply(text: str) -> Scripted:
    """The case that the question names, or an answer."""
    return next((cases()[name][0] for name in NAMES if text == name), answer("Berlin."))


def configured(folder: Path, server: ScriptedServer, **more: Any) -> Path:
    source = folder / "questions.jsonl"
    source.write_text("".join(json.dumps({"question": name}) + "\n" for name in [*NAMES, "good"]))
    llm = {"engine": "openai", "model": "thinker", "base_url": server.base_url, "reasks": 0}
    prices = {"prompt": 1.0, "completion": 2.0}
    config = {
        "name": "answer-questions",
        "run_dir": str(folder / "run"),
        "source": {"path": str(source)},
        "llms": {"student": llm | {"api_keys_env": [], "usd_per_million": prices}},
        **more,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def answers(folder: Path) -> dict[str, dict[str, Any]]:
    lines = (folder / "run" / "exports" / "dataset.jsonl").read_text().splitlines()
    return {row["question"]: row for row in map(json.loads, lines)}


def test_thinking_is_no_answer_and_what_was_cut_off_is_told(
    command: Command, tmp_path: Path
) -> None:
    with ScriptedServer(reply) as server:
        keeping = {"stages": {"answer": {"keep_thinking": True}}, "budget": {"max_failed_rows": 2}}
        done = command("run", configured(tmp_path, server, **keeping))
    assert done.code == 0, done.text
    assert len(server.texts) == 5  # no cut thinking is paid for twice
    rows = answers(tmp_path)
    columns = ("model_answer", "model_answer_error", "model_thinking")
    assert {question: tuple(row[name] for name in columns) for question, row in rows.items()} == {
        "think": ("Paris is the capital of France.", None, "The capital... yes."),
        "cut": ("Paris is the capital of", "length", None),
        "good": ("Berlin.", None, None),
    }
    (entry,) = [
        stage
        for stage in json.loads((tmp_path / "run/ledger.json").read_text())["stages"]
        if stage["name"] == "answer"
    ]
    assert (entry["kept"], entry["failed"], entry["reasons"]) == (3, 2, {"llm:length": 2})
    usage = entry["llm"]
    assert (usage["requests"], usage["completion_tokens"], usage["cut"]) == (5, 25, 3)
    # All tokens of the two that were cut while thinking, and two of the five of the first.
    assert usage["reasoning_tokens"] == 12
    assert usage["cost_usd"] == 5 * (10 + 2 * 5) / 1e6

    for text in (done.out, command("status", tmp_path / "run").out):
        words = " ".join(text.split())
        assert "2 answer llm:length" in words
        assert "answer: 2 rows failed because the answer reached its limit of tokens" in words
        assert "Raise max_tokens, or let the model think less" in words
        assert "answer: 1 row kept with an answer that was cut off" in words
        assert "thinking" in words
    shown = command("rows", tmp_path / "run", "answer", "--status", "failed", "--json")
    for line in shown.out.splitlines():
        row = json.loads(line)
        assert "raise llms.student.max_tokens (now 256)" in row["reason"]
        assert "extra_body: {reasoning_effort: low}" in row["reason"]
        life = command("trace", tmp_path / "run", row["row_id"]).out
        assert "(thinking) The capital of France, let me" in " ".join(life.split())
    page = Page((tmp_path / "run" / "report.html").read_text())
    for words in ("12 thinking", "3 cut off", "2 rows failed because the answer reached its limit"):
        assert words in page.words
    assert "what the model thought before The capital of France, let me" in page.words


def test_a_cut_answer_fails_where_the_prompt_says_so(command: Command, tmp_path: Path) -> None:
    prompt = tmp_path / "strict.yaml"
    prompt.write_text("user: '{{ question }}'\n")
    with ScriptedServer(reply) as server:
        stages = {"stages": {"answer": {"prompt": str(prompt)}}}
        path = configured(tmp_path, server, **stages)
        # More failed rows than the budget allows: the run says so and stops.
        few = command("run", path, "--set", "budget.max_failed_rows=2")
        assert few.code == 1, few.text
        assert "3 rows failed" in few.err
        done = command("run", path, "--set", "budget.max_failed_rows=3")
    assert done.code == 0, done.text
    assert len(server.texts) == 5
    assert set(answers(tmp_path)) == {"think", "good"}
    assert "answer: 3 rows failed" in " ".join(done.out.split())
