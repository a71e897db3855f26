"""Money, tokens and rates hold for a whole run: its workers together, its restarts included."""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.command import Command
from support.fork_server import Started
from support.mock_openai import MockServer
from support.screen import shown as shown_on_screen
from support.toy_run import Toy, make_toy

from ray_pipeline.cli.views.look import status
from ray_pipeline.rundir.reader import RunReader

ROWS = 60
#: A question has five words and an answer eleven, and the server counts words.
TOKENS = 16
USD_PER_TOKEN = 0.001


#: So few rows a unit, and so few requests in flight, that no worker can take all units to itself.
UNIT_ROWS = 2
CONCURRENCY = 6


def toy_ask(folder: Path, server: MockServer, rows: int = ROWS, **llm: Any) -> Toy:
    """A job of two workers, for a server that tells their processes apart."""
    common = {"engine": "openai", "model": "m", "base_url": server.base_url, "api_keys_env": []}
    prices = {"prompt": 1e6 * USD_PER_TOKEN, "completion": 1e6 * USD_PER_TOKEN}
    # The server answers 503 until both workers are there, however long the second one takes.
    patient = {"max_tries": 1000, "max_backoff_seconds": 0.3, "give_up_after_seconds": 60}
    shared = {"actors": 2, "concurrency": CONCURRENCY, "max_tokens": 16}
    return make_toy(
        folder,
        [f"text {i}" for i in range(rows)],
        pipeline="toy_ask",
        unit_rows=UNIT_ROWS,
        llms={"mock": {**common, **patient, **shared, "usd_per_million": prices, **llm}},
        stages={"ask": {"llm": "mock", "prompt": "ask"}},
    )


def answered(server: MockServer) -> dict[str, int]:
    """How many answers each worker process got, by its number (0: not found out)."""
    found: dict[str, int] = server.stats()["completed_per_process"]
    return found


def workers_of(server: MockServer) -> set[int]:
    """The processes that asked it: all that have connected but this one, which reads its counts."""
    return set(server.stats()["processes"]) - {os.getpid()}


def tokens(server: MockServer) -> int:
    """What a provider would bill."""
    stats = server.stats()
    return int(stats["prompt_tokens"] + stats["completion_tokens"])


def check_account(toy: Toy, server: MockServer) -> None:
    """A run that stopped in the stage ask says so, and has all that was answered in its ledger."""
    stats = server.stats()
    shout, ask = toy.stage("shout"), toy.stage("ask")
    assert ("finished" in shout) == (shout["kept"] < ROWS)
    assert ask["finished"] is False and ask["rows_waiting"] == shout["kept"] - ask["rows_in"] > 0
    assert ask["rows_in"] == ask["kept"] + ask["dropped"] + ask["failed"]
    sent = sum(ask["llm"].get(name, 0) for name in ("requests", "reused", "unused"))
    assert sent - ask["llm"].get("unanswered", 0) == stats["completed"] > 0
    assert ask["llm"]["cost_usd"] == pytest.approx(tokens(server) * USD_PER_TOKEN)
    shown = shown_on_screen(status(RunReader(str(toy.run_dir))), width=160)
    assert f"not finished, {ask['rows_waiting']} to come" in shown
    report = (toy.run_dir / "report.html").read_text()
    assert "not finished" in report and "does not add up" not in report


def test_money_stops_a_run_and_more_of_it_continues_it(command: Command, tmp_path: Path) -> None:
    needed = ROWS * TOKENS * USD_PER_TOKEN
    with MockServer(latency=0.02, processes=2) as server:
        toy = toy_ask(tmp_path, server)
        toy.change(budget={"max_cost_usd": needed / 2})
        done = command("run", toy.config_file)
        assert done.code == 3, done.text
        assert f"max_cost_usd of ${needed / 2:g} is used up" in done.err
        assert "raise it under budget: to continue" in done.err
        assert "Traceback" not in done.text
        assert toy.ledger()["status"] == "budget_exhausted"
        # Half of the budget is not left unused, and all of it is never passed.
        assert needed / 4 < tokens(server) * USD_PER_TOKEN <= needed / 2
        assert len(workers_of(server)) == 2
        check_account(toy, server)

        # It counts over restarts: there is nothing left for a second run.
        done = command("run", toy.config_file)
        assert done.code == 3, done.text
        assert tokens(server) * USD_PER_TOKEN <= needed / 2
        check_account(toy, server)

        toy.change(budget={"max_cost_usd": 3 * needed})
        done = command("run", toy.config_file)
        assert done.code == 0, done.text
        stats = server.stats()
        assert (stats["completed"], stats["repeated_completed"]) == (ROWS, 0)
        ask = toy.stage("ask")
        assert (ask["kept"], toy.ledger()["status"]) == (ROWS, "succeeded")
        assert ask["llm"]["requests"] + ask["llm"]["reused"] == ROWS
        assert all("finished" not in stage for stage in toy.ledger()["stages"])
        assert ask["llm"]["cost_usd"] == pytest.approx(tokens(server) * USD_PER_TOKEN)
        assert tokens(server) == ROWS * TOKENS


def test_tokens_stop_a_run_and_more_of_them_continue_it(command: Command, tmp_path: Path) -> None:
    limit = ROWS * TOKENS // 2
    with MockServer(latency=0.02, processes=2) as server:
        toy = toy_ask(tmp_path, server, usd_per_million=None)
        toy.change(budget={"max_tokens": limit})
        done = command("run", toy.config_file)
        assert done.code == 3, done.text
        assert f"max_tokens of {limit} is used up" in done.err
        assert toy.ledger()["status"] == "budget_exhausted"
        assert limit / 2 < tokens(server) <= limit
        assert len(workers_of(server)) == 2

        toy.change(budget={"max_tokens": 10 * limit})
        done = command("run", toy.config_file)
        assert done.code == 0, done.text
        stats = server.stats()
        assert (stats["completed"], stats["repeated_completed"]) == (ROWS, 0)
        assert toy.stage("ask")["kept"] == ROWS


def most_in(seconds: float, arrivals: list[float]) -> int:
    """The largest number of arrivals in any window of so many seconds."""
    return max(bisect.bisect_left(arrivals, t + seconds) - i for i, t in enumerate(arrivals))


def test_a_rate_holds_for_two_workers_together(command: Command, tmp_path: Path) -> None:
    per_minute, rows = 300, 60
    with MockServer(latency=0.05, processes=1) as server:
        toy = toy_ask(tmp_path, server, rows, requests_per_minute=per_minute)
        done = command("run", toy.config_file)
        assert done.code == 0, done.text
        arrivals = sorted(e["t"] for e in server.events() if e["event"] == "arrival")
        stats = server.stats()
        workers = answered(server)
    assert len(arrivals) == rows
    assert len(workers) == 2 and min(workers.values()) >= rows / 6
    # A bucket of two seconds' worth spreads the starts, and a permit lives for a second. Two
    # workers on their own would start all of them within four seconds.
    assert most_in(5, arrivals) <= per_minute / 60 * (5 + 2 + 1)
    assert arrivals[-1] - arrivals[0] >= 60 / per_minute * rows - 3
    assert max(stats["max_key_in_flight"].values()) <= CONCURRENCY


@pytest.fixture(scope="module")
def minute(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minute]:
    """A run of more than a minute, which does next to nothing, beside the other tests."""
    folder = tmp_path_factory.mktemp("minute")
    with MockServer(latency=0.05, processes=2) as server:
        toy = toy_ask(folder, server, 126, requests_per_minute=120)
        process = Command(ray_cluster, folder).start("run", toy.config_file)
        yield Minute(server, process)
        process.kill()
        process.communicate()


@dataclass
class Minute:
    server: MockServer
    process: Started


@pytest.fixture(scope="module", autouse=True)
def _begun(request: pytest.FixtureRequest) -> None:
    """Begins the run of a minute first, where its test is among those to run."""
    if any(getattr(item, "originalname", "") == TEST_OF_A_MINUTE for item in request.session.items):
        request.getfixturevalue("minute")


TEST_OF_A_MINUTE = "test_no_minute_sees_more_than_the_limit"


@pytest.mark.slow
def test_no_minute_sees_more_than_the_limit(minute: Minute) -> None:
    out, err = minute.process.communicate(timeout=180)
    assert minute.process.returncode == 0, out + err
    stats = minute.server.stats()
    assert stats["completed"] == 126
    assert max(stats["max_per_minute"].values()) <= 120
    workers = answered(minute.server)
    assert len(workers) == 2 and min(workers.values()) >= 126 / 6
