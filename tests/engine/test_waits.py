"""A server's pause: told once with who, until when and how many rows; bounded."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from support.command import Command
from support.scripted_server import ScriptedServer, answer, cases
from support.toy_run import Toy, make_toy

from ray_pipeline.engine.waits import PauseNews, clock_time
from ray_pipeline.llm.config import LlmConfig
from ray_pipeline.llm.limits.protocol import KeyUse

NOON = time.mktime((2026, 11, 30, 12, 0, 0, 0, 0, -1))


LLMS = {
    name: LlmConfig(model="m", engine="openai", api_keys_env=[], give_up_after_seconds=900)
    for name in ("big", "small")
}


class Telling:
    """The news of pauses, with a clock of its own."""

    def __init__(self) -> None:
        self.now = NOON
        self.said: list[str] = []
        self.news = PauseNews(self.said.append, LLMS, lambda: self.now)

    def update(self, *keys: KeyUse, rows: int = 0) -> list[str]:
        return self.news.update(keys, {"big": rows})

    def settled(self, *keys: KeyUse) -> list[str]:
        """What is told once the pauses have been seen for a while."""
        self.update(*keys)
        self.now += 2
        return self.update(*keys)


def key(name: str = "KEY_A", llm: str = "big", **fields: Any) -> KeyUse:
    nothing = {
        "in_flight": 0, "oldest_seconds": 0.0, "tries": 0, "waiting": 0, "pause_seconds": 0.0,
        "pause_reason": "", "retired": None,
    }  # fmt: skip
    return KeyUse(llm=llm, key=name, **(nothing | fields))


def test_a_new_pause_is_told_once_and_again_after_ten_minutes() -> None:
    telling = Telling()
    for second in range(1300):
        telling.now = NOON + second
        pause = key(pause_seconds=7202.0 - second, pause_reason="HTTP 429: per day", waiting=5)
        lines = telling.update(pause, rows=1234)
        assert len(lines) == (second >= 2)
        assert all("until 14:00:02" in line for line in lines)
    assert len(telling.said) == 3
    assert telling.said[0] == (
        "waiting: the server of llms.big, key KEY_A asks to wait until 14:00:02 (2 h); 1,234 "
        "rows wait for an answer; other work runs on, and the run stops after 15 min of it "
        "(give_up_after_seconds): HTTP 429: per day"
    )
    assert telling.update(key()) == []
    telling.settled(key(pause_seconds=100.0))
    assert len(telling.said) == 4  # another pause


def test_a_pause_that_is_extended_is_told_again_but_not_for_seconds() -> None:
    telling = Telling()
    telling.settled(key(pause_seconds=100.0))
    telling.settled(key(pause_seconds=130.0))
    assert len(telling.said) == 1
    telling.settled(key(pause_seconds=500.0))
    assert len(telling.said) == 2


def test_short_pauses_are_not_told() -> None:
    telling = Telling()
    assert telling.settled(key(pause_seconds=5.0)) == []
    assert not telling.said


def test_what_runs_on_is_named() -> None:
    telling = Telling()
    (line,) = telling.settled(
        key(pause_seconds=3600.0), key("KEY_B"), key("KEY_C", retired="quota")
    )
    assert line.endswith("its other keys go on (KEY_B)") and "run stops" not in line
    (line,) = telling.settled(key(pause_seconds=3600.0), key("K", llm="small", in_flight=2))
    assert "stages with llms.small run on, and the run stops after 15 min" in line


def test_the_clock_shows_the_date_of_another_day() -> None:
    assert clock_time(NOON + 60, NOON) == "12:01:00"
    assert clock_time(NOON + 86_400, NOON) == "2026-12-01 12:00:00"


# --------------------------------------------------------------------------- real runs

DAILY, _ = cases()["daily-limit"]


def limited_run(folder: Path, server: ScriptedServer, keys: list[str], patience: float) -> Toy:
    llm = {"engine": "openai", "model": "m", "base_url": server.base_url, "api_keys_env": keys}
    return make_toy(
        folder,
        [f"row {number}" for number in range(20)],
        pipeline="toy_ask",
        llms={"mock": {**llm, "give_up_after_seconds": patience}},
        stages={"ask": {"llm": "mock", "prompt": "ask"}},
        unit_rows=20,
    )


def test_a_daily_limit_is_told_and_the_run_stops_without_failing_rows(
    command: Command, tmp_path: Path
) -> None:
    with ScriptedServer(lambda text: DAILY) as server:
        toy = limited_run(tmp_path, server, [], patience=6.0)
        done = command("run", toy.config_file)
        assert done.code == 1, done.text
        tomorrow = time.strftime("%Y-%m-%d", time.localtime(time.time() + 86_400))
        assert "waiting: the server of llms.mock asks to wait until" in done.out
        assert "20 rows wait for an answer" in done.out.replace("\n", " ")
        assert f"the server asks to wait until {tomorrow}" in done.err
        assert "requests per day (RPD)" in done.err
        assert "Run the same command again then" in done.err
        assert toy.ledger()["waiting"] == []
        assert sum(stage["failed"] for stage in toy.ledger()["stages"]) == 0
        # Nothing is lost: once the server answers, the same command goes on.
        server.reply = lambda text: answer()
        done = command("run", toy.config_file)
        assert done.code == 0, done.text
        assert toy.stage("ask")["kept"] == 20


def test_a_second_key_goes_on(command: Command, tmp_path: Path) -> None:
    # Variables that the workers of the session's cluster have, too.
    limited, free = "HOME", "PYTHONPATH"
    with ScriptedServer(lambda text: answer()) as server:
        server.reply_to[f"Bearer {os.environ[limited]}"] = DAILY
        toy = limited_run(tmp_path, server, [limited, free], patience=60.0)
        done = command("run", toy.config_file)
    assert done.code == 0, done.text
    assert toy.stage("ask")["kept"] == 20


def test_status_shows_what_a_run_waits_for(own_process: Command, tmp_path: Path) -> None:
    with ScriptedServer(lambda text: DAILY) as server:
        toy = limited_run(tmp_path, server, [], patience=600.0)
        process = own_process.start("run", toy.config_file)
        while not (toy.run_dir / "ledger.json").exists() or not toy.ledger()["waiting"]:
            assert process.poll() is None
            time.sleep(0.2)
        shown = own_process("status", toy.run_dir)
        process.kill()
        process.communicate(timeout=60)
    assert "waiting: the server of llms.mock asks to wait until" in shown.out
    assert "20 rows wait for an answer" in shown.out
