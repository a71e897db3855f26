"""`retry` runs exactly the failed rows again, and what comes after them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.command import Command
from support.mock_openai import MockServer
from support.toy_run import Toy, make_toy


def _toy(folder: Path, texts: list[str], server: MockServer) -> Toy:
    llm = {"engine": "openai", "model": "m", "base_url": server.base_url, "api_keys_env": []}
    return make_toy(
        folder,
        texts,
        pipeline="toy_ask",
        llms={"mock": {**llm, "reasks": 0, "max_tries": 2, "max_backoff_seconds": 0.1}},
        stages={"ask": {"llm": "mock", "prompt": "ask"}},
        budget={"max_failed_rows": 0.9},
    )


def test_retry_asks_only_for_the_failed_rows(command: Command, tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(30)]
    texts[3] += " [[mock:malformed]]"
    texts[17] += " bad-answer"
    with MockServer() as server:
        toy = _toy(tmp_path, texts, server)
        assert command("run", toy.config_file).code == 0
        assert toy.stage("ask")["failed"] == 2
        assert toy.stage("ask")["reasons"] == {"llm:malformed": 1, "llm:unusable": 1}
        before = server.stats()["arrivals"]
        done = command("retry", toy.run_dir, "--job", toy.job)
        assert done.code == 0, done.text
        # Both fail again, having been asked again: one answer, and two tries at a malformed one.
        assert server.stats()["arrivals"] - before == 3
    assert toy.stage("ask")["failed"] == 2
    assert toy.stage("whisper")["kept"] == 28


def test_a_retried_row_goes_on_through_the_stages(command: Command, tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(30)]
    with MockServer(p500=1.0) as server:
        toy = _toy(tmp_path, texts, server)
        toy.change(budget={"max_failed_rows": 30})
        assert command("run", toy.config_file).code in (0, 1)
        port = server.port
    with MockServer(port=port):
        done = command("run", toy.config_file)
        assert done.code == 0, done.text
        done = command("retry", toy.run_dir, "--job", toy.job)
        assert done.code == 0, done.text
    assert toy.stage("ask")["kept"] == toy.stage("whisper")["kept"] == 30
    assert toy.stage("ask")["failed"] == 0
    rows = toy.parts("03-whisper").to_pylist()
    assert {row["text"] for row in rows} == set(texts)
    assert all(row["whisper"] and row["answer"] for row in rows)


@pytest.mark.parametrize("path", ["nothing", "."])
def test_retry_of_what_is_no_run(command: Command, tmp_path: Path, path: str) -> None:
    done = command("retry", tmp_path / path)
    assert done.code == 2
    assert "Traceback" not in done.err
