"""A power loss at any moment: what is on disk then is a run that continues to the same end.

What a small run writes is recorded (`support.recorded_writes`). Each prefix of its records is put
into the run directory: as processes saw it, with the last change torn (empty, half, zeros), and
with all gone that no sync had put on disk. The run is started again on each of them.

``POWER_STATES=all pytest tests/engine/test_power_loss.py -k costs`` tries all of them (199 in
November 2026), ``POWER_STATES=done.json`` those of a file.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support import recorded_writes
from support.command import Command, InProcess
from support.mock_openai import MockServer
from support.recorded_writes import Disk, Files, Record, torn, write_files
from support.toy_run import Toy, make_toy
from support.without_ray import without_ray

from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.journal_lines import journal_files, read_journal

TEXTS = ["one", "two twin", "three", "four", "one", "six drop"]
#: States that are tried: all, or a number of different kinds. Starting a run without Ray takes a
#: fraction of a second.
WANTED, WITH_RAY = os.environ.get("POWER_STATES", "16"), "3"
#: Files whose content depends on the moment, or that no run needs.
UNSTABLE = ("ledger.json", "environment.json", "report.html", "run.lock", "workers.lock", "logs/")


#: Files that a run reads which continues an earlier one: the user is told where they are torn.
TOLD = (".arrow", "done.json", "ledger.json", "metrics.json")


@dataclass(frozen=True)
class State:
    """What a power loss leaves: after which record, how, and the files."""

    after: int
    record: Record
    how: str
    files: Files

    def __str__(self) -> str:
        name = self.record.other or self.record.path
        return f"{self.after}: {self.record.kind} {name}, {self.how}"

    def told_in(self, text: str) -> tuple[str, bool]:
        """The kind of the torn file, and whether a run's output names it."""
        name = (self.record.other or self.record.path).rpartition("/")[2]
        # A terminal breaks long lines anywhere.
        return re.sub(r"-[0-9a-f]{8,}|\d{6}", "", name), name in "".join(text.split())


def states(records: list[Record]) -> Iterator[State]:
    """Every state, those with the same files once."""
    disk, before, seen = Disk(), Files(), set[str]()
    for number, record in enumerate(records):
        disk.apply(record)
        after = disk.now()
        found = [("whole", after), ("unsynced gone", disk.synced()), *torn(record, before, after)]
        for how, files in found:
            files = {path: data for path, data in files.items() if not is_unfinished(path)}
            digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()
            if digest not in seen:
                seen.add(digest)
                yield State(number, record, how, files)
        before = after


def is_unfinished(path: str) -> bool:
    """Whether a file has a name that is not its last one."""
    return any(part.startswith(".") and part.endswith(".tmp") for part in path.split("/"))


def result(run_dir: Path) -> dict[str, Any]:
    """All that must be the same however often the power went: rows, exports, artifacts, figures."""
    found: dict[str, Any] = {}
    for path in sorted(run_dir.rglob("*")):
        name = path.relative_to(run_dir).as_posix()
        if path.is_dir() or is_unfinished(name) or not stable([name]) or "responses/" in name:
            continue
        if name.endswith(".parquet"):
            found[name] = pq.read_table(path).replace_schema_metadata(None).to_pylist()
        elif name.startswith("exports/dataset/"):
            found["exports/dataset"] = "there"
        elif not name.endswith("done.json"):
            found[name] = path.read_bytes()
        else:
            found[name] = "there"
    return found


def stable(paths: Iterable[str]) -> set[str]:
    """The files that every run writes."""
    return {path for path in paths if not path.startswith(UNSTABLE)}


def rows(toy: Toy) -> dict[str, Any]:
    """The row counts of each stage."""
    names = ("name", "rows_in", "created", "kept", "dropped", "failed")
    return {s["name"]: {name: s[name] for name in names} for s in toy.ledger()["stages"]}


def stored_answers(run_dir: Path) -> set[tuple[str, str]]:
    """Units and keys of the answers in the journals that can be read."""
    storage = Storage(str(run_dir))
    return {
        (Path(path).parent.name, record["key"])
        for path in journal_files(storage, "responses")
        for record in read_journal(storage, path)[0]
        if "text" in record
    }


def make(folder: Path, server: MockServer) -> Toy:
    llm = {"engine": "openai", "model": "m", "base_url": server.base_url, "api_keys_env": []}
    return make_toy(
        folder,
        TEXTS,
        pipeline="toy_power",
        unit_rows=3,
        llms={"mock": llm},
        stages={"ask": {"llm": "mock", "prompt": "ask"}},
        export={"formats": ["jsonl", "csv", "parquet"]},
    )


def chosen(found: list[State], wanted: str) -> list[State]:
    """All states, or some of different kinds."""
    if wanted == "all":
        return found
    if not wanted.isdigit():
        return [state for state in found if wanted in str(state)]
    chance = random.Random(wanted)
    kinds: dict[tuple[str, str], list[State]] = {}
    for state in found:
        kinds.setdefault((state.record.kind, state.how), []).append(state)
    each = [chance.choice(of_kind) for of_kind in kinds.values()]
    return chance.sample(each, min(int(wanted), len(each)))


@pytest.fixture
def in_process(tmp_path: Path) -> Iterator[Command]:
    """The command in this process and without Ray, whose writes can be recorded."""
    with without_ray():
        yield InProcess(tmp_path)
    recorded_writes.uninstall()


def test_a_power_loss_at_any_moment_costs_no_answer_and_no_row(
    in_process: Command, tmp_path: Path
) -> None:
    replay(in_process, tmp_path, WANTED)


def test_so_it_is_with_workers_of_their_own_process(command: Command, tmp_path: Path) -> None:
    try:
        replay(command, tmp_path, WITH_RAY)
    finally:
        recorded_writes.uninstall()


def replay(command: Command, folder: Path, wanted: str) -> None:
    """Record a run, and start it again on some of the states that a power loss leaves."""
    with MockServer() as server:
        toy = make(folder, server)
        recorded_writes.start_recording(toy.run_dir)
        recorded_writes.install()
        done = command("run", toy.config_file)
        assert done.code == 0, done.text
        records = recorded_writes.stop_recording(toy.run_dir)
        recorded_writes.uninstall()
        expected, expected_rows = result(toy.run_dir), rows(toy)
        requests = server.stats()["completed"]
        assert requests == len(stored_answers(toy.run_dir))

        found = list(states(records))
        last = next(s for s in reversed(found) if s.how in ("whole", "unsynced gone"))
        there = [path for path in toy.run_dir.rglob("*") if path.is_file()]
        # Nothing is written past the recorder.
        assert stable(last.files) == stable(str(p.relative_to(toy.run_dir)) for p in there)
        wrong, kinds, told = [], Counter[str](), Counter[tuple[str, bool]]()
        for state in chosen(found, wanted):
            shutil.rmtree(toy.run_dir)
            write_files(toy.run_dir, state.files)
            stored = stored_answers(toy.run_dir)
            before = server.stats()["completed"]
            done = command("run", toy.config_file)
            kinds[state.how] += 1
            if state.how not in ("whole", "unsynced gone"):
                told[state.told_in(done.text)] += 1
                if state.told_in(done.text) in [(name, False) for name in TOLD]:
                    wrong.append(f"{state}: not told: {done.text}")
            paid = server.stats()["completed"] - before
            if done.code != 0:
                wrong.append(f"{state}: {done.text}")
            elif paid != requests - len(stored):
                wrong.append(f"{state}: {paid} requests, {len(stored)} of {requests} were stored")
            elif (now := result(toy.run_dir)) != expected or rows(toy) != expected_rows:
                differ = [p for p in now.keys() | expected if now.get(p) != expected.get(p)]
                wrong.append(f"{state}: differs in {differ}")
    print(len(records), "records,", len(found), "states,", dict(kinds))
    print("torn files, and whether their names were told:", sorted(told.items()))
    assert not wrong, "\n".join([*wrong, f"{len(wrong)} of {kinds.total()} states"])
