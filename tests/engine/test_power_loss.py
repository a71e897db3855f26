"""A power loss at any moment: what is on disk then is a run that continues to the same end.

What a small run writes is recorded (`support.recorded_writes`). Each prefix of its records is put
into the run directory: as processes saw it, with the last change torn (empty, half, zeros), and
with all gone that no sync had put on disk. The run is started again on each of them.

``POWER_STATES=all pytest tests/engine/test_power_loss.py`` tries all of them, ``1/4`` every fourth
from the second on, an integer that many of different kinds.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support import recorded_writes
from support.command import Command
from support.mock_openai import MockServer
from support.recorded_writes import Disk, Files, Record, torn, write_files
from support.toy_run import Toy, make_toy

from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.journal_lines import journal_files, read_journal

TEXTS = ["one", "two twin", "three", "four", "one", "six drop"]
WANTED = os.environ.get("POWER_STATES", "5")
#: Files whose content depends on the moment, or that no run needs.
UNSTABLE = ("ledger.json", "environment.json", "report.html", "run.lock", "workers.lock", "logs/")


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
        if path.is_dir() or name.startswith((*UNSTABLE, "responses/")) or is_unfinished(name):
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
    formats = ["jsonl", "csv", "parquet"] + ["hf"] * (not WANTED.isdigit())
    return make_toy(
        folder,
        TEXTS,
        pipeline="toy_power",
        unit_rows=3,
        llms={"mock": llm},
        stages={"ask": {"llm": "mock", "prompt": "ask"}},
        export={"formats": formats},
    )


def chosen(found: list[State]) -> list[State]:
    """All states, or some of every kind."""
    if WANTED == "all":
        return found
    if "/" in WANTED:
        first, step = map(int, WANTED.split("/"))
        return found[first::step]
    chance = random.Random(WANTED)
    kinds: dict[tuple[str, str], list[State]] = {}
    for state in found:
        kinds.setdefault((state.record.kind, state.how), []).append(state)
    each = [chance.choice(of_kind) for of_kind in kinds.values()]
    return chance.sample(each, min(int(WANTED), len(each)))


@pytest.fixture
def recorder() -> Iterator[None]:
    yield
    recorded_writes.uninstall()


def test_a_power_loss_at_any_moment_costs_no_answer_and_no_row(
    command: Command, tmp_path: Path, recorder: None
) -> None:
    with MockServer() as server:
        toy = make(tmp_path, server)
        recorded_writes.start_recording(toy.run_dir)
        done = command("run", toy.config_file)
        assert done.code == 0, done.text
        records = recorded_writes.stop_recording(toy.run_dir)
        recorded_writes.uninstall()
        expected, expected_rows = result(toy.run_dir), rows(toy)
        requests = server.stats()["completed"]
        assert requests == len(stored_answers(toy.run_dir))

        found = list(states(records))
        last = next(s for s in reversed(found) if s.how in ("whole", "unsynced gone"))
        written = {p for p in last.files if not p.startswith(UNSTABLE)}
        there = {
            p.relative_to(toy.run_dir).as_posix() for p in toy.run_dir.rglob("*") if p.is_file()
        }
        # Nothing is written past the recorder.
        assert written == {p for p in there if not p.startswith(UNSTABLE)}
        wrong, kinds = [], Counter[str]()
        for state in chosen(found):
            shutil.rmtree(toy.run_dir)
            write_files(toy.run_dir, state.files)
            stored = stored_answers(toy.run_dir)
            before = server.stats()["completed"]
            done = command("run", toy.config_file)
            kinds[state.how] += 1
            paid = server.stats()["completed"] - before
            if done.code != 0:
                wrong.append(f"{state}: {done.text}")
            elif paid != requests - len(stored):
                wrong.append(f"{state}: {paid} requests, {len(stored)} of {requests} were stored")
            elif (now := result(toy.run_dir)) != expected or rows(toy) != expected_rows:
                differ = [p for p in now.keys() | expected if now.get(p) != expected.get(p)]
                wrong.append(f"{state}: differs in {differ}")
    print(len(records), "records,", len(found), "states,", dict(kinds))
    assert not wrong, "\n".join([*wrong, f"{len(wrong)} of {kinds.total()} states"])
