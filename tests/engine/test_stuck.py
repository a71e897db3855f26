"""A row that its processing does not get done with fails alone, and the run ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.command import Command
from support.toy_run import make_toy

from ray_pipeline.engine.coordinator import Snapshot, UnitInWork
from ray_pipeline.engine.stuck import StuckUnits
from ray_pipeline.engine.worker_processes import WorkerProcess
from ray_pipeline.stage import AskStage, DecideStage, MapStage, ModelStage

PROCESS = WorkerProcess("node-1", "host", 12)


@dataclass
class Run:
    """A run with one unit in work, as the driver sees it."""

    seconds: float | None = 100.0
    kind: type = MapStage
    slowest: float = 0.0
    done: tuple[str, ...] = ()
    said: list[str] = field(default_factory=list)
    taken_apart: list[Any] = field(default_factory=list)
    killed: list[WorkerProcess] = field(default_factory=list)

    def __post_init__(self) -> None:
        order = lambda *unit: self.taken_apart.append(unit)  # noqa: E731
        self.watch = StuckUnits(self.seconds, order, self.killed.append, self.said.append)

    def check(
        self, seconds: float, unit_id: str = "u1", segment: int = 0, is_isolated: bool = False
    ) -> bool:
        """Whether a unit is taken apart that has taken this many seconds."""
        tally = SimpleNamespace(
            segment=SimpleNamespace(account_names=["read", "shout"], kind=self.kind),
            done={unit_id: [] for unit_id in self.done},
            slowest_seconds=self.slowest,
        )
        news = Snapshot(in_work=[UnitInWork(segment, unit_id, PROCESS, seconds, is_isolated)])
        before = len(self.killed)
        self.watch.check(SimpleNamespace(segments={0: tally}), news)  # type: ignore[arg-type]
        assert len(self.taken_apart) == len(self.killed) == len(self.said)
        return len(self.killed) > before


@pytest.mark.parametrize("kind", [MapStage, ModelStage])
def test_a_unit_that_takes_too_long_is_taken_apart_once(kind: type) -> None:
    run = Run(kind=kind)
    assert not run.check(99.0)
    assert run.check(101.0)
    assert run.taken_apart == [(0, "u1")] and run.killed == [PROCESS]
    assert "unit u1 of read + shout" in run.said[0] and "stuck_after_seconds" in run.said[0]
    # Its rows take their time now; another unit is looked at as before.
    assert not run.check(5000.0)
    assert run.check(101.0, "u2")


@pytest.mark.parametrize(
    "run",
    [
        Run(seconds=None),
        Run(kind=AskStage),  # waits for a server
        Run(kind=DecideStage),
        Run(slowest=500.0),  # the stage is slow, not a row
        Run(done=("u1",)),  # committed by another attempt
    ],
)
def test_what_takes_its_time_is_left_alone(run: Run) -> None:
    assert not run.check(4999.0)


def test_a_worker_that_loads_its_model_and_an_earlier_execution_are_left_alone() -> None:
    assert not Run().check(5000.0, unit_id="")
    assert not Run().check(5000.0, segment=7)


def test_rows_that_run_alone_already_are_left_alone() -> None:
    """Killing their process would fail the row that it works on as crashed."""
    assert not Run().check(5000.0, is_isolated=True)


def test_rows_that_never_end_fail_alone(own_process: Command, tmp_path: Path) -> None:
    texts = [f"row {number}" for number in range(24)]
    texts[3] += " stuck"  # the driver finds its unit
    texts[7] += " twin"
    texts[13] += " kill"  # whose unit is isolated for that, and has the other one as well
    texts[16] += " stuck"
    budget = {"max_failed_rows": 3}
    toy = make_toy(tmp_path, texts, stuck_after_seconds=20.0, budget=budget)
    done = own_process("run", toy.config_file, timeout=400)
    assert done.code == 0, done.text
    rows = toy.parts("02-whisper").to_pylist()
    reasons = {row["text"]: row["reason"] for row in rows if row["status"] == "failed"}
    assert {text: reason.split(":")[0] for text, reason in reasons.items()} == {
        "row 3 stuck": "stuck", "row 13 kill": "crash", "row 16 stuck": "stuck",
    }  # fmt: skip
    # Every other row is what it would have been, the created one included.
    assert sum(row["status"] == "kept" for row in rows) == 24 - 3 + 1
    assert " of source + shout + whisper has taken " in done.text
    assert toy.stage("shout")["failed"] == 3
    assert toy.stage("shout")["counts"]["shouted"] == 21
