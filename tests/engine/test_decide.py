"""Decide stages: the same winners whatever the layout, after kills, and when files are added."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.command import Command
from support.one_cpu_cluster import one_cpu_cluster
from support.toy_run import Toy, make_toy

from ray_pipeline.core.storage import Storage
from ray_pipeline.engine.decide import run_tasks

#: Each text comes one to five times, near and far; some rows are dropped before, some doubled.
TEXTS = [f"text {i * i % 41}" for i in range(99)]
TEXTS = [t + " drop" * (i % 10 == 3) + " twin" * (i % 29 == 4) for i, t in enumerate(TEXTS)]


def check(toy: Toy) -> list[dict[str, Any]]:
    """The decisions are right: of each text the row with the smallest id stays. Gives the rows."""
    rows = toy.parts("02-first").to_pylist()
    groups = defaultdict(list)
    for row in rows:
        groups[row["text"]].append(row)
    for group in groups.values():
        ids = [row["row_id"] for row in group]
        assert ids == sorted(set(ids))
        assert [row["status"] for row in group] == ["kept"] + ["dropped"] * (len(group) - 1)
        assert group[0]["winner"] is None
        assert all(row["winner"] == ids[0] for row in group[1:])
        assert all(row["reason"] == "duplicate:exact" for row in group[1:])
        assert all(row["stage"] == "first" for row in group[1:])
    assert toy.stage("first")["rows_in"] == toy.stage("shout")["kept"] == len(rows)
    assert toy.stage("first")["kept"] == toy.stage("whisper")["rows_in"] == len(groups)
    return rows


def stamps(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*.parquet")}


def test_the_same_winners_whatever_the_layout(command: Command, tmp_path: Path) -> None:
    one_cpu = Command(None, tmp_path)
    found = {}
    with one_cpu_cluster() as environment:
        one_cpu.environment |= environment
        for cpus, run, unit_rows in (
            ("one", one_cpu, 6),
            ("two", command, 6),
            ("two", command, 99),
        ):
            folder = tmp_path / f"{cpus}-{unit_rows}"
            folder.mkdir()
            toy = make_toy(folder, TEXTS, pipeline="toy_decide", unit_rows=unit_rows)
            done = run("run", toy.config_file, timeout=90)
            assert done.code == 0, done.text
            found[cpus, unit_rows] = check(toy)
    first = found["one", 6]
    assert len(first) == 99 - 10 + 4
    assert {row["status"] for row in first} == {"kept", "dropped"}
    assert all(rows == first for rows in found.values())


def test_reuse_and_an_appended_file(command: Command, own_process: Command, tmp_path: Path) -> None:
    toy = make_toy(tmp_path, TEXTS, pipeline="toy_decide")
    folder = tmp_path / "texts"
    folder.mkdir()
    toy.source.rename(folder / "a.jsonl")
    toy.change(source={"path": str(folder)})
    assert command("run", toy.config_file).code == 0
    before = stamps(toy.run_dir)

    # Nothing changed: nothing is decided or written again, and no cluster is needed.
    done = own_process("run", toy.config_file, RAY_ADDRESS="127.0.0.1:1")
    assert done.code == 0, done.text
    assert all(stage["reused"] for stage in toy.ledger()["stages"])
    assert {k: v for k, v in stamps(toy.run_dir).items() if "/stages/" in k} == {
        k: v for k, v in before.items() if "/stages/" in k
    }

    # New rows compete with the old ones, whose own stages do not run again.
    lines = [json.dumps({"text": text}) for text in ("text 0", "text 1", "text 2", "never seen")]
    (folder / "b.jsonl").write_text("\n".join(lines) + "\n")
    done = command("run", toy.config_file)
    assert done.code == 0, done.text
    rows = check(toy)
    assert {"never seen"} < {row["text"] for row in rows}
    after = stamps(toy.run_dir)
    shouts = {k: v for k, v in before.items() if "/01-shout/" in k}
    assert shouts.items() <= after.items()


def test_a_driver_that_is_killed_while_it_decides(tmp_path: Path) -> None:
    command = Command("local", tmp_path)  # a cluster that dies with its driver
    texts = [f"slow {i % 8}" for i in range(24)]
    toy = make_toy(tmp_path, texts, pipeline="toy_decide_words")
    process = command.start("run", toy.config_file)
    assert process.stdout is not None
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    for line in process.stdout:
        if line.startswith("deciding first"):
            break
    watchdog.cancel()
    time.sleep(1.5)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert (toy.run_dir / "stages/01-shout/done.json").exists()
    assert not (toy.run_dir / "stages/02-first/decisions/done.json").exists()
    before = stamps(toy.run_dir / "stages/01-shout")

    done = command("run", toy.config_file)
    assert done.code == 0, done.text
    assert len(check(toy)) == 24
    assert stamps(toy.run_dir / "stages/01-shout") == before
    assert [s["reused"] for s in toy.ledger()["stages"]] == [True, True, False, False]


@pytest.mark.parametrize("texts", [["all drop", "drop it"], ["one"], ["a", "b", "c drop"]])
def test_nothing_to_decide(command: Command, tmp_path: Path, texts: list[str]) -> None:
    toy = make_toy(tmp_path, texts, pipeline="toy_decide", unit_rows=1)
    done = command("run", toy.config_file)
    assert done.code == 0, done.text
    left = sum("drop" not in text for text in texts)
    assert toy.stage("first")["rows_in"] == toy.stage("first")["kept"] == left
    assert toy.stage("whisper")["kept"] == left


def test_a_decision_that_raises_stops_the_run(command: Command, tmp_path: Path) -> None:
    toy = make_toy(tmp_path, ["a", "b broken", "c"], pipeline="toy_decide_words")
    done = command("run", toy.config_file)
    assert done.code == 1, done.text
    assert "Traceback" not in done.text
    assert "'first'" in done.err
    assert "ValueError: the text says broken" in done.err
    ledger = toy.ledger()
    assert ledger["status"] == "failed"
    finished = [stage["name"] for stage in ledger["stages"] if stage.get("finished", True)]
    assert finished == ["source", "shout"]

    # The processes that ran its tasks are idle and still there: they keep no other run out.
    toy.source.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("a", "c")))
    done = command("run", toy.config_file)
    assert done.code == 0, done.text
    assert "waiting for the workers" not in done.text


def test_a_task_in_flight_is_not_cancelled_where_another_one_fails(
    ray_cluster: str, tmp_path: Path
) -> None:
    """Ray ends the driver without a word if a task completes while it is being cancelled."""

    # Here, because workers have no module of the tests.
    @dataclass(frozen=True)
    class Step:
        """A task that fails, or that leaves a file after a while."""

        storage: Storage
        name: str = ""

        def run(self) -> None:
            if not self.name:
                raise ValueError("this one fails")
            time.sleep(1.5)
            self.storage.write_bytes(self.name, b"done")

    storage = Storage(str(tmp_path))
    with pytest.raises(ValueError, match="this one fails"):
        run_tasks("step", [Step(storage, "other"), Step(storage)])
    assert not storage.exists("other")
    for _ in range(100):
        if storage.exists("other"):
            break
        time.sleep(0.1)
    assert storage.read_bytes("other") == b"done"
