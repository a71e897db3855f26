"""Runs against servers that reply in odd ways: what a user reads and gets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.command import Command, Finished
from support.scripted_server import Scripted, ScriptedServer, answer, cases
from support.toy_run import Toy, make_toy

TEST = "Say OK."
ROWS = 24


def toy(folder: Path, server: ScriptedServer, allowed: float = 0.5, **llm: Any) -> Toy:
    """A job that asks about each row; rows whose number is divisible by four are odd."""
    common = {"engine": "openai", "model": "m", "base_url": server.base_url, "api_keys_env": []}
    quick = {"max_tries": 3, "max_backoff_seconds": 0.05, "concurrency": 6, "max_tokens": 16}
    return make_toy(
        folder,
        [f"{'odd' if i % 4 == 0 else 'good'} {i}" for i in range(ROWS)],
        pipeline="toy_ask",
        llms={"mock": {**common, **quick, **llm}},
        stages={"ask": {"llm": "mock", "prompt": "ask"}},
        budget={"max_failed_rows": allowed},
    )


def odd_rows(name: str) -> Callable[[str], Scripted]:
    """The case's reply for odd rows, an answer for the others."""
    odd, _ = cases()[name]
    return lambda text: odd if "odd" in text.lower() else answer("Something.")


def every_row(name: str) -> Callable[[str], Scripted]:
    """The case's reply for every request."""
    odd, _ = cases()[name]
    return lambda _: odd


def ran(command: Command, job: Toy) -> Finished:
    """The finished run."""
    done = command("run", job.config_file)
    assert "Traceback" not in done.text
    return done


@pytest.mark.parametrize(
    ("name", "code", "words", "tries"),
    [
        ("message-null", "llm:malformed", "HTTP 200: the reply holds no answer", 3),
        ("flagged-403", "llm:content_filter", "Your input was flagged for: violence", 1),
        ("firewall-403", "llm:refused", "HTTP 403: 403 Forbidden Request blocked", 1),
        ("loc-null", "llm:bad_request", "HTTP 422: bad value", 1),
    ],
)
def test_some_rows_replies_fail_those_rows_alone(
    command: Command, tmp_path: Path, name: str, code: str, words: str, tries: int
) -> None:
    with ScriptedServer(odd_rows(name)) as server:
        job = toy(tmp_path, server)
        done = ran(command, job)
        asked = [text for text in server.texts if text != TEST]
    assert done.code == 0, done.text
    ask = job.stage("ask")
    assert (ask["kept"], ask["failed"], ask["reasons"]) == (18, 6, {code: 6})
    assert len(asked) == 18 + 6 * tries
    rows = command("rows", job.run_dir, "ask", "--status", "failed").out
    assert words in " ".join(rows.split())
    assert code in command("status", job.run_dir).out
    report = " ".join((job.run_dir / "report.html").read_text().split())
    assert "what the server said" in report
    assert words.split(": ")[-1] in report


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("key-403", "HTTP 403: Your account is not allowed to use this endpoint"),
        ("quota-google", "please check your plan and billing details"),
    ],
)
def test_a_key_that_no_request_can_use_stops_the_run_with_the_servers_words(
    command: Command, tmp_path: Path, name: str, words: str
) -> None:
    with ScriptedServer(every_row(name)) as server:
        job = toy(tmp_path, server)
        done = ran(command, job)
        assert len(server.texts) <= 2 * (6 + 1)  # per worker: what was in flight, and the test
    assert done.code == 1, done.text
    message = " ".join(done.err.split())
    assert "no usable API key is left" in message
    assert words in message
    assert job.ledger()["status"] == "failed"


def test_rows_that_a_firewall_refuses_can_be_tried_again(command: Command, tmp_path: Path) -> None:
    with ScriptedServer(odd_rows("firewall-403")) as server:
        job = toy(tmp_path, server)
        assert ran(command, job).code == 0
        again = command(
            "retry", job.run_dir, "--job", job.job
        )  # none of their neighbours is asked now
        assert again.code == 0, again.text
        assert job.stage("ask")["failed"] == 6
        server.reply = lambda _: answer("Something.")
        last = command("retry", job.run_dir, "--job", job.job)
    assert last.code == 0, last.text
    assert (job.stage("ask")["kept"], job.stage("ask")["failed"]) == (ROWS, 0)


def test_replaced_characters_are_counted(command: Command, tmp_path: Path) -> None:
    with ScriptedServer(odd_rows("surrogate")) as server:
        job = toy(tmp_path, server)
        done = ran(command, job)
    assert done.code == 0, done.text
    assert job.stage("ask")["failed"] == 0
    assert job.stage("ask")["counts"]["replaced_characters"] == 6
