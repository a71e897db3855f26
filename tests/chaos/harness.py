"""Runs a job against a faulty API, kills its processes with SIGKILL, and says what it cost.

    python tests/chaos/harness.py --rows 2000

is the experiment at full size; ``test_chaos.py`` runs it in small.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

import psutil
from conftest import Command, Toy, make_toy
from mock_openai import MockServer

FAULTS = {"p429": 0.02, "p500": 0.02, "pcut": 0.01, "pmalformed": 0.01, "retry_after": 0.5}


@dataclass
class Outcome:
    """What a disturbed run came to, against an undisturbed one."""

    rows: int
    driver_kills: int
    actor_kills: int
    lost: int
    duplicated: int
    #: Requests whose response was on storage and that were asked again all the same.
    repeated_on_storage: int
    #: Requests that the server had answered in full more than once: kills in mid-flight included.
    repeated_at_server: int
    balanced: bool
    identical: bool
    exit_code: int
    seconds: float


def run_chaos(
    folder: Path, rows: int, unit_rows: int, concurrency: int, latency: float, seed: int
) -> Outcome:
    """Run undisturbed, run with kills, compare."""
    began = time.monotonic()
    texts = [f"text number {i}" for i in range(rows)]
    with MockServer(latency=latency, seed=seed, **FAULTS) as server:
        calm = _toy(folder / "calm", texts, unit_rows, concurrency, server)
        assert _command(calm)("run", calm.config_file, timeout=900).code == 0
    chance = random.Random(seed)
    with MockServer(latency=latency, seed=seed + 1, **FAULTS) as server:
        wild = _toy(folder / "wild", texts, unit_rows, concurrency, server)
        # Three drivers die at random points of the work, then actors of the fourth.
        points = sorted(chance.sample(range(rows // 20, rows * 7 // 10), 3))
        kills = sum(_kill_driver_at(wild, server, point) for point in points)
        process = _command(wild).start("run", wild.config_file)
        killed = _kill_actors(process, chance, 4)
        out, err = process.communicate(timeout=900)
        stats = server.stats()
    if process.returncode:
        print(out, err, file=sys.stderr)
    return Outcome(
        rows=rows,
        driver_kills=kills,
        actor_kills=killed,
        **_compare(calm, wild),
        repeated_on_storage=_repeated_on_storage(wild.run_dir),
        repeated_at_server=stats["repeated_completed"],
        balanced=wild.ledger()["status"] == "succeeded" and _balanced(wild),
        exit_code=process.returncode,
        seconds=round(time.monotonic() - began, 1),
    )


def _toy(
    folder: Path, texts: list[str], unit_rows: int, concurrency: int, server: MockServer
) -> Toy:
    folder.mkdir()
    llm = {
        "engine": "openai",
        "model": "mock",
        "base_url": server.base_url,
        "api_keys_env": [],
        "concurrency": concurrency,
        "max_backoff_seconds": 2,
    }
    return make_toy(
        folder,
        texts,
        pipeline="toy_ask",
        unit_rows=unit_rows,
        llms={"mock": llm},
        stages={"ask": {"llm": "mock", "prompt": "ask"}},
    )


def _command(toy: Toy) -> Command:
    # A cluster of its own: it must die with its driver.
    command = Command(None, toy.config_file.parent)
    command.environment["RAY_ADDRESS"] = "local"
    return command


def _kill_driver_at(toy: Toy, server: MockServer, completed: int) -> int:
    """Start a run and kill its driver when the server has answered so many requests in all."""
    process = _command(toy).start("run", toy.config_file)
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        if server.stats()["completed"] >= completed:
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)
            return 1
        time.sleep(0.02)
    _, err = process.communicate(timeout=5)
    raise AssertionError(f"the run ended before it could be killed: {err}")


def _kill_actors(process: subprocess.Popen[str], chance: random.Random, number: int) -> int:
    """Kill Ray actors and tasks of a run at random, some seconds apart; how many were killed."""
    killed = 0
    deadline = time.monotonic() + 120
    while killed < number and process.poll() is None and time.monotonic() < deadline:
        time.sleep(chance.uniform(0.5, 2.0))
        if victims := _workers(process.pid):
            victim = chance.choice(victims)
            try:
                os.kill(victim.pid, signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                continue
    return killed


def _workers(driver: int) -> list[psutil.Process]:
    """Ray's worker processes below a driver that have work: ``ray::Class.method``.

    Not the two agents: the node goes with them, and this cluster has only one.
    """
    try:
        family = psutil.Process(driver).children(recursive=True)
        named = [(p, " ".join(p.cmdline())) for p in family]
    except psutil.Error:
        return []
    spared = ("IDLE", "DashboardAgent", "RuntimeEnvAgent")
    return [
        p for p, name in named if name.startswith("ray::") and not any(s in name for s in spared)
    ]


def _compare(calm: Toy, wild: Toy) -> dict[str, Any]:
    folders = ["01-shout", "02-ask", "03-whisper"]
    try:
        before = [calm.parts(folder).to_pylist() for folder in folders]
        after = [wild.parts(folder).to_pylist() for folder in folders]
    except FileNotFoundError:
        return {"lost": -1, "duplicated": -1, "identical": False}
    wanted = collections.Counter(row["row_id"] for row in before[-1])
    got = collections.Counter(row["row_id"] for row in after[-1])
    return {
        "lost": (wanted - got).total(),
        "duplicated": (got - wanted).total(),
        "identical": before == after,
    }


def _balanced(toy: Toy) -> bool:
    stages = toy.ledger()["stages"]
    adds_up = all(
        s["rows_in"] + s["created"] == s["kept"] + s["dropped"] + s["failed"] for s in stages
    )
    follows = all(a["kept"] == b["rows_in"] for a, b in itertools.pairwise(stages))
    return adds_up and follows


def _repeated_on_storage(run_dir: Path) -> int:
    keys = collections.Counter(
        json.loads(line)["key"]
        for path in run_dir.glob("responses/**/*.jsonl")
        for line in path.read_text().splitlines()
        if '"text":' in line and line.endswith("}")
    )
    return keys.total() - len(keys)


def main() -> None:
    """The experiment at the size that is asked for; prints its outcome as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--unit-rows", type=int, default=100)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=1)
    options = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asdict(run_chaos(Path(folder), **options)), indent=2))


if __name__ == "__main__":
    main()
