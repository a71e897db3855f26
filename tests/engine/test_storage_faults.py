"""Storage that refuses: one message, no further request, nothing lost that is not counted."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.command import Command, Finished
from support.mock_openai import MockServer
from support.toy_run import Toy, make_toy

from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.responses import recorded

ROWS, UNIT_ROWS, CONCURRENCY = 48, 4, 4
#: At most; the tests run on two CPUs.
WORKERS = 2
#: Files that a run can do without.
DISPENSABLE = ("logs/",)
#: What a message says that counts the answers which could not be stored.
LOST = re.compile(r"(\d+) answers? that had arrived \(\$[\d.e-]+\) could not be stored")


def toy_ask(folder: Path, server: MockServer, rows: int = ROWS, **keys: Any) -> Toy:
    llm = {"engine": "openai", "model": "m", "base_url": server.base_url, "api_keys_env": []}
    prices = {"prompt": 1.0, "completion": 1.0}
    folder.mkdir(exist_ok=True)
    return make_toy(
        folder,
        [f"text {i}" for i in range(rows)],
        pipeline="toy_ask",
        unit_rows=UNIT_ROWS,
        llms={"mock": {**llm, "concurrency": CONCURRENCY, "usd_per_million": prices}},
        stages={"ask": {"llm": "mock", "prompt": "ask"}},
        export={"formats": ["jsonl", "csv", "parquet", "hf"]},
        **keys,
    )


def rows_of(toy: Toy) -> dict[str, Any]:
    folders = sorted(path.parent.name for path in toy.run_dir.glob("stages/*/rows"))
    return {folder: toy.parts(folder).to_pylist() for folder in folders}


def lost_in(done: Finished) -> int:
    return sum(int(number) for number in LOST.findall(done.err))


def is_one_message(done: Finished) -> bool:
    return "Traceback" not in done.text and len(done.err.strip().splitlines()) == 1


class Obstacles:
    """Something that stands in the place of each file that a run writes, by kind of file."""

    def __init__(self, calm: Path, run_dir: Path) -> None:
        self.standing: dict[str, list[Path]] = {}
        for path in sorted(p.relative_to(calm) for p in calm.rglob("*") if p.is_file()):
            kind, place = str(path), run_dir / path
            if path.parts[0] == "responses":
                # The name of a journal is not known before: its folder cannot be made.
                kind, place = "responses/ask", run_dir / path.parent
            elif path.parent.name == "rows":
                kind = str(path.parent)
            elif path.parts[:2] == ("exports", "dataset"):
                kind, place = "exports/dataset", run_dir / "exports/dataset"
            self.standing.setdefault(kind, []).append(place)
        for places in self.standing.values():
            for place in places:
                place.parent.mkdir(parents=True, exist_ok=True)
                if place.name == "dataset":
                    place.write_text("in the way")
                elif place.parent.name == "ask":
                    # There is no folder to read, and none can be made.
                    place.symlink_to("nowhere")
                else:
                    (place / "in the way").mkdir(parents=True)

    def clear(self, kind: str) -> None:
        for place in self.standing.pop(kind):
            if place.is_dir():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)  # the library may have removed it

    def named_in(self, message: str) -> list[str]:
        """The kinds of files that a message names."""
        named = [
            kind
            for kind, places in self.standing.items()
            if any(re.search(rf"{re.escape(str(place))}(?![\w.])", message) for place in places)
        ]
        assert named, message
        return named


def test_each_file_of_a_run_directory_may_be_refused(command: Command, tmp_path: Path) -> None:
    with MockServer(latency=0.02) as server:
        calm = toy_ask(tmp_path / "calm", server)
        done = command("run", calm.config_file)
        assert done.code == 0, done.text
        assert server.stats()["completed"] == ROWS
        wild = toy_ask(tmp_path / "wild", server)
        obstacles = Obstacles(calm.run_dir, wild.run_dir)
        refused, lost = [], 0
        while (done := command("run", wild.config_file)).code != 0:
            assert is_one_message(done), done.text
            kinds = obstacles.named_in(done.err)
            assert len(kinds) == 1 or all(kind.startswith("exports/") for kind in kinds)
            assert done.code == (2 if kinds[0].endswith(".lock") else 1)
            had_ledger = "ledger.json" in refused
            refused += kinds
            lost += lost_in(done)
            # What could be stored is what the ledger says, as soon as there can be one.
            if had_ledger:
                ledger = wild.ledger()
                usages = [entry["llm"] for entry in ledger["stages"]]
                # A run that could not find out how far its stages are counts their requests apart.
                usages.append(ledger.get("other_requests"))
                cost = sum(usage["cost_usd"] for usage in usages if usage)
                stored = recorded(Storage(str(wild.run_dir)), "responses")
                assert cost == pytest.approx(stored.cost_usd)
            for kind in kinds:
                obstacles.clear(kind)
        stats = server.stats()
    assert sorted(refused) == sorted(
        set(refused) | {k for k in obstacles.standing if not k.startswith(DISPENSABLE)}
    )
    assert all(kind.startswith(DISPENSABLE) for kind in obstacles.standing)
    assert {"config.yaml", "units.parquet", "responses/ask", "exports/dataset.jsonl"} < set(refused)
    # Only journals can lose answers. A worker stops when the first one is refused: by then all in
    # flight may have arrived, and as many requests may have been sent in their slots.
    assert 0 < lost <= 2 * CONCURRENCY * WORKERS
    assert stats["completed"] == 2 * ROWS + lost
    assert rows_of(wild) == rows_of(calm)
    assert wild.ledger()["status"] == "succeeded"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory of 4 MiB; needs the right to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_stops_sending_at_once(
    command: Command, tmp_path: Path, small_disk: Path
) -> None:
    rows = 200
    with MockServer(latency=0.02) as server:
        calm = toy_ask(tmp_path / "calm", server, rows)
        assert command("run", calm.config_file).code == 0
        toy = toy_ask(tmp_path / "full", server, rows, run_dir=str(small_disk / "run"))
        toy.run_dir = small_disk / "run"
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes((4 << 20) - (400 << 10)))
        done = command("run", toy.config_file)
        assert done.code == 1 and is_one_message(done), done.text
        assert re.search(
            r"cannot write \S*/run/\S*: \[Errno 28\] No space left on device", done.err
        )
        stored = recorded(Storage(str(toy.run_dir)), "responses")
        lost, sent = lost_in(done), server.stats()["completed"] - rows
        # Every answer that the server gave is on storage or in the message.
        assert 0 < stored.requests < rows and sent == stored.requests + lost
        assert lost <= 3 * CONCURRENCY
        assert not list(toy.run_dir.rglob("*.tmp"))
        shown = command("status", toy.run_dir)
        assert shown.code == 0 and "not finished" in shown.out, shown.text

        ballast.unlink()
        done = command("run", toy.config_file)
        assert done.code == 0, done.text
        assert server.stats()["completed"] == 2 * rows + lost
    assert rows_of(toy) == rows_of(calm)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A folder on which nothing new can be opened for writing; what is open stays so."""
    for command in (["--bind", str(folder), str(folder)], ["-o", "remount,bind,ro", str(folder)]):
        if subprocess.run(["mount", *command], capture_output=True, check=False).returncode:
            pytest.skip("no right to mount a file system")
    yield
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_folder_that_becomes_read_only_stops_sending(
    own_process: Command, tmp_path: Path
) -> None:
    rows = 200
    with MockServer(latency=0.1) as server:
        toy = toy_ask(tmp_path / "toy", server, rows)
        process = own_process.start("run", toy.config_file)
        while server.stats()["completed"] < rows // 10:
            assert process.poll() is None
            time.sleep(0.05)
        with read_only(toy.run_dir):
            out, err = process.communicate(timeout=120)
        assert process.returncode == 1, out + err
        assert "Read-only file system" in err and "Traceback" not in out + err, err
        stored = recorded(Storage(str(toy.run_dir)), "responses")
        lost = sum(map(int, LOST.findall(err)))
        assert server.stats()["completed"] == stored.requests + lost < rows
        done = own_process("run", toy.config_file)
        assert done.code == 0, done.text
        assert server.stats()["completed"] == rows + lost
    assert toy.ledger()["status"] == "succeeded"
