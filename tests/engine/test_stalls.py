"""A run that makes no progress ends, unless it waits for something that can be named."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.command import Command
from support.toy_run import make_toy

from ray_pipeline.engine.coordinator import Snapshot, UnitInWork
from ray_pipeline.engine.stalls import Stalled, StallWatch
from ray_pipeline.engine.worker_processes import ProcessState, WorkerProcess
from ray_pipeline.llm.config import LlmConfig
from ray_pipeline.llm.limits.protocol import KeyUse
from ray_pipeline.stage import AskStage, MapStage

LIMIT = 600.0
PROCESS = WorkerProcess("node-1", "host", 12)
LLMS = {
    "server": LlmConfig(model="m", engine="openai", api_keys_env=[], timeout_seconds=120),
    "local": LlmConfig(model="m", engine="transformers"),
}


@dataclass
class Run:
    """A run of one segment that stands still, as the driver sees it."""

    kind: type = MapStage
    load: float | None = 0.0
    autoscaling: bool = False
    free_cpus: float = 2.0
    seconds: float | None = LIMIT
    news: Snapshot = field(default_factory=Snapshot)

    def __post_init__(self) -> None:
        self.now = 0.0
        self.said: list[str] = []
        self.counts: Counter[str] = Counter()
        self.done: dict[str, Any] = {}
        self.watch = StallWatch(
            self.seconds,
            LLMS,
            self.autoscaling,
            self._probe,
            lambda: self.free_cpus,
            self.said.append,
            lambda: self.now,
        )

    def _probe(
        self, processes: Sequence[WorkerProcess], engines: Sequence[str]
    ) -> list[ProcessState]:
        at_engines = [WorkerProcess("node-2", "gpu", 7)] if engines else []
        return [ProcessState(p, self.load, "") for p in (*processes, *at_engines)]

    def check(self) -> None:
        segment = SimpleNamespace(account_names=["shout"], kind=self.kind)
        tally = SimpleNamespace(
            segment=segment,
            done=self.done,
            units=4,
            rows_waiting=self.counts["rows"],
            requests_sent=0,
            finished=False,
        )
        self.watch.check(SimpleNamespace(segments={0: tally}), self.news)  # type: ignore[arg-type]

    def stand_still(self, seconds: float) -> None:
        """Look twice a second for this time, as the driver does."""
        for _ in range(int(seconds)):
            self.check()
            self.now += 1.0


def key(llm: str = "server", **fields: Any) -> KeyUse:
    nothing = {
        "in_flight": 0, "oldest_seconds": 0.0, "tries": 0, "waiting": 0, "pause_seconds": 0.0,
        "pause_reason": "", "retired": None,
    }  # fmt: skip
    return KeyUse(llm=llm, key="KEY", **(nothing | fields))


def unit(unit_id: str = "0123456789abcdef") -> UnitInWork:
    return UnitInWork(0, unit_id, PROCESS, 700.0)


def test_a_run_that_stands_still_is_ended_with_who_waits_for_what() -> None:
    leaked = key(in_flight=2, oldest_seconds=900.0, waiting=38)
    run = Run(AskStage, news=Snapshot(in_work=[unit()], keys=[leaked]))
    run.stand_still(LIMIT)
    with pytest.raises(Stalled) as stalled:
        run.stand_still(2)
    message = str(stalled.value)
    assert "llms.server (KEY): 2 requests in flight, the oldest for 15 min" in message
    assert "38 wait for one of them to end" in message
    assert "unit 01234567 of shout for 11 min" in message and "process 12 on host" in message
    assert "4 units of shout are not done" in message
    assert "stalled_after_seconds" in message and "logs/" in message


@pytest.mark.parametrize("what", ["unit", "row", "try", "other unit"])
def test_any_progress_begins_the_time_again(what: str) -> None:
    run = Run(news=Snapshot(in_work=[unit()]))
    for number in range(20):
        run.stand_still(LIMIT * 0.9)
        if what == "unit":
            run.done[str(number)] = []
        elif what == "row":
            run.counts["rows"] += 1
        elif what == "try":
            run.news.keys = [key(tries=number)]
        else:
            run.news.in_work = [unit(f"{number:016x}")]
    with pytest.raises(Stalled):
        run.stand_still(LIMIT * 1.1)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (Run(news=Snapshot(starting=["local"])), "the engine of llms.local is starting"),
        (
            Run(AskStage, news=Snapshot(keys=[key(waiting=3, pause_seconds=5000.0)])),
            "the server of llms.server asked to wait",
        ),
        (
            Run(AskStage, news=Snapshot(keys=[key(in_flight=3, oldest_seconds=119.0)])),
            "3 requests to llms.server are in flight",
        ),
        (Run(free_cpus=0.0), "no CPU of the cluster is free"),
        (Run(autoscaling=True), "has not added the nodes"),
        # A worker that was lost leaves its unit behind.
        (Run(load=None, autoscaling=True, news=Snapshot(in_work=[unit()])), "not added the nodes"),
        (Run(news=Snapshot(in_work=[unit("")])), "process 12 on host loads its model"),
        # Processes that compute, however long.
        (Run(load=0.1, news=Snapshot(in_work=[unit()])), "unit 01234567 of shout"),
        (Run(load=1.0, news=Snapshot(keys=[key("local", in_flight=1)])), "a local model"),
    ],
)
def test_a_wait_with_a_name_is_no_stall(run: Run, words: str) -> None:
    run.stand_still(10 * LIMIT)
    # Told once in that time, not twice a second.
    assert 9 <= len(run.said) <= 10
    assert all(words in line for line in run.said), run.said


@pytest.mark.parametrize(
    "run",
    [
        Run(news=Snapshot()),  # no worker ever began
        Run(news=Snapshot(in_work=[unit()])),
        Run(load=None, news=Snapshot(in_work=[unit("")])),  # died while it loaded its model
        Run(AskStage, load=0.04, news=Snapshot(in_work=[unit()], keys=[key(waiting=3)])),
        Run(news=Snapshot(keys=[key("local", in_flight=1, oldest_seconds=9000.0)])),
        Run(news=Snapshot(keys=[key(waiting=3, pause_seconds=9.0, retired="no quota")])),
        # Beyond its time-out.
        Run(AskStage, news=Snapshot(keys=[key(in_flight=3, oldest_seconds=200.0)])),
    ],
)
def test_what_has_no_name_is_a_stall(run: Run) -> None:
    with pytest.raises(Stalled, match="no progress for 10 min"):
        run.stand_still(LIMIT + 2)


def test_without_a_limit_nothing_is_ended() -> None:
    run = Run(seconds=None)
    run.stand_still(100 * LIMIT)
    assert not run.said


# --------------------------------------------------------------------------- real runs


def stuck_run(folder: Path, engine: str, seconds: float) -> Any:
    llm: dict[str, Any] = {"engine": f"support.stuck_engine:{engine}", "model": "m"}
    llm |= {"api_keys_env": [], "concurrency": 2, "timeout_seconds": 1}
    return make_toy(
        folder,
        [f"row {number}" for number in range(20)],
        pipeline="toy_ask",
        llms={"stuck": llm},
        stages={"ask": {"llm": "stuck", "prompt": "ask"}},
        stalled_after_seconds=seconds,
    )


@pytest.mark.parametrize("engine", ["NeverAnswers", "LeaksLeases"])
def test_an_engine_that_keeps_its_requests_ends_the_run(
    own_process: Command, tmp_path: Path, engine: str
) -> None:
    toy = stuck_run(tmp_path, engine, 5.0)
    done = own_process("run", toy.config_file, timeout=120)
    assert done.code == 1, done.text
    assert "Traceback" not in done.text
    assert "the run waits for nothing that it can name: llms.stuck (no key): 2 requests in" in (
        done.err
    )
    log = (toy.run_dir / "logs" / "ray.log").read_text()
    assert "asking.py" in log  # the stacks of the worker
    assert json.loads((toy.run_dir / "ledger.json").read_text())["status"] == "failed"


def test_a_slow_engine_is_left_alone(own_process: Command, tmp_path: Path) -> None:
    toy = stuck_run(tmp_path, "Slow", 0.5)
    done = own_process("run", toy.config_file, timeout=120)
    assert done.code == 0, done.text
    assert toy.stage("ask")["kept"] == 20
