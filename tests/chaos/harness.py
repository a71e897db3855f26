"""Runs a job against a faulty API, kills its processes with SIGKILL, and says what it cost.

    python tests/chaos/harness.py --rows 2000
    python tests/chaos/harness.py --job qa --source trivia_qa.csv --rows 2000

are the experiments at full size, on a toy job and on `qa_distillation` over the first rows of a
CSV file with the columns Question and Answer. ``test_chaos.py`` runs the first one in small.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

import psutil
import yaml
from support.command import Command
from support.fork_server import Started
from support.mock_openai import MockServer
from support.toy_run import Toy, make_toy

FAULTS = {"p429": 0.02, "p500": 0.02, "pcut": 0.01, "pmalformed": 0.01, "retry_after": 0.5}
#: Seconds that a worker may need to put an answer on storage once the server has sent it.
_ON_ITS_WAY = 0.25
#: Seconds after which a run is taken to hang.
_PATIENCE = 1800

#: Writes a job's configuration into a folder, for a model as configured.
MakeJob = Callable[[Path, dict[str, Any]], Toy]


@dataclass
class Kills:
    """What was killed, and when."""

    times: list[float] = field(default_factory=list)
    drivers: int = 0
    workers: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    """What a disturbed run came to, against an undisturbed one."""

    #: Rows of the source, and how many of them and of those made from them left where.
    rows: int
    fates: dict[str, int]
    requests: int
    driver_kills: int
    #: Ray's names of the workers that were killed.
    worker_kills: list[str]
    #: Rows of the undisturbed run that the disturbed one lacks, and the reverse.
    lost: int
    duplicated: int
    #: Every row of the source, and every row made from one, ended exactly once.
    accounted: bool
    #: Requests whose response was on storage and that were asked again all the same.
    repeated_on_storage: int
    #: Requests that the server answered more often than in the undisturbed run: those in flight
    #: at a kill, and the others.
    repeated_in_flight: int
    repeated_otherwise: int
    balanced: bool
    identical: bool
    exit_code: int
    seconds: float

    def good(self) -> bool:
        """Whether all promises were kept."""
        amiss = self.lost + self.duplicated + self.repeated_on_storage + self.repeated_otherwise
        kept = self.accounted and self.balanced and self.identical
        return kept and amiss == 0 and self.exit_code == 0


def run_chaos(
    folder: Path,
    make_job: MakeJob,
    answer: str,
    concurrency: int,
    latency: float,
    seed: int,
    driver_kills: int = 3,
    worker_kills: int = 4,
    calm_address: str = "local",
) -> Outcome:
    """Run undisturbed (on the cluster at ``calm_address``), run with kills, compare."""
    began = time.monotonic()
    with MockServer(latency=latency, seed=seed, answer=answer, **FAULTS) as server:
        calm = _job(folder / "calm", make_job, concurrency, server)
        done = Command(calm_address, folder)("run", calm.config_file, timeout=_PATIENCE)
        assert done.code == 0, done.text
        calm_answers = _answers(server.events())
    requests = sum(map(len, calm_answers.values()))
    chance = random.Random(seed)
    kills = Kills()
    with MockServer(latency=latency, seed=seed + 1, answer=answer, **FAULTS) as server:
        wild = _job(folder / "wild", make_job, concurrency, server)
        # Drivers die at random points of the work, the last one with all of its cluster, as when
        # a machine is lost; then workers of the last run.
        points = sorted(chance.sample(range(requests // 20, requests * 7 // 10), driver_kills))
        for point in points:
            _kill_driver_at(wild, server, point, kills, whole_cluster=point == points[-1])
        before = server.stats()["completed"]
        process = _command(wild).start("run", wild.config_file)
        _wait_for_answer(wild, server, before, process)
        _kill_workers(process, chance, worker_kills, kills)
        out, err = process.communicate(timeout=_PATIENCE)
        answers = _answers(server.events())
    if process.returncode:
        print(out, err, file=sys.stderr)
    explained, unexplained = _repeats(calm_answers, answers, kills.times)
    return Outcome(
        requests=requests,
        driver_kills=kills.drivers,
        worker_kills=kills.workers,
        **_compare(calm, wild),
        repeated_on_storage=_repeated_on_storage(wild.run_dir),
        repeated_in_flight=explained,
        repeated_otherwise=unexplained,
        balanced=wild.ledger()["status"] == "succeeded" and _balanced(wild),
        exit_code=process.returncode,
        seconds=round(time.monotonic() - began, 1),
    )


# --------------------------------------------------------------------------- the jobs


def toy_job(folder: Path, llm: dict[str, Any], rows: int, unit_rows: int) -> Toy:
    """Shout, Ask, Whisper over made-up texts."""
    return make_toy(
        folder,
        [f"text number {i}" for i in range(rows)],
        pipeline="toy_ask",
        unit_rows=unit_rows,
        llms={"mock": llm},
        stages={"ask": {"llm": "mock", "prompt": "ask"}},
    )


def qa_job(folder: Path, llm: dict[str, Any], source: Path, rows: int, unit_rows: int) -> Toy:
    """`qa_distillation` with its own prompts; the embedder is the real one.

    The server answers with the draft that the prompts hold. Many of them pass the stages' checks;
    the others are asked again, in vain, and kept.
    """
    asks = {"llm": "mock", "if_unusable": "keep"}
    config = {
        "name": "qa-distillation",
        "run_dir": str(folder / "run"),
        "until": "accept-paraphrases",
        "seed": 7,
        "unit_rows": unit_rows,
        "source": {
            "path": str(source),
            "columns": {"question": "Question", "answer": "Answer"},
            "limit": rows,
        },
        "llms": {"mock": llm},
        "stages": {
            "fill-in-blank": {**asks, "prompt": "fill_in_blank"},
            "multiple-choice": {**asks, "prompt": "multiple_choice"},
            "outliers": asks,
            "rephrase-first": asks,
            "rephrase-second": asks,
            "augment-formal": {"llm": "mock"},
            "augment-casual": {"llm": "mock"},
            "augment-general": {"llm": "mock"},
        },
    }
    config_file = folder / "config.yaml"
    config_file.write_text(yaml.safe_dump(config))
    return Toy(config_file, folder / "run", source)


def _job(folder: Path, make_job: MakeJob, concurrency: int, server: MockServer) -> Toy:
    folder.mkdir()
    llm = {
        "engine": "openai",
        "model": "mock",
        "base_url": server.base_url,
        "api_keys_env": [],
        "concurrency": concurrency,
        "max_backoff_seconds": 2,
    }
    return make_job(folder, llm)


# --------------------------------------------------------------------------- kills


def _command(toy: Toy) -> Command:
    # A cluster of its own: it must die with its driver.
    return Command("local", toy.config_file.parent)


def _kill_driver_at(
    toy: Toy, server: MockServer, completed: int, kills: Kills, whole_cluster: bool
) -> None:
    """Start a run and kill its driver when the server has answered so many requests in all."""
    process = _command(toy).start("run", toy.config_file)
    _wait_for_answer(toy, server, completed, process)
    cluster = psutil.Process(process.pid).children(recursive=True) if whole_cluster else []
    kills.times.append(time.time())
    for victim in [*cluster, process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    kills.drivers += 1


def _wait_for_answer(toy: Toy, server: MockServer, number: int, process: Started) -> None:
    """Wait until the server has answered more than so many requests in all."""
    deadline = time.monotonic() + _PATIENCE
    while server.stats()["completed"] <= number:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            _, err = process.communicate(timeout=5)
            raise AssertionError(f"{toy.run_dir}: the run ended before it could be killed: {err}")
        time.sleep(0.02)


def _kill_workers(process: Started, chance: random.Random, number: int, kills: Kills) -> None:
    """Kill actors and tasks of a run at random, every second one an actor that asks."""
    deadline = time.monotonic() + _PATIENCE
    while len(kills.workers) < number and process.poll() is None and time.monotonic() < deadline:
        victims = _workers(process.pid)
        if len(kills.workers) % 2 == 0:
            victims = [(p, name) for p, name in victims if "AskWorker" in name]
        if not victims:
            time.sleep(0.1)
            continue
        victim, name = chance.choice(victims)
        kills.times.append(time.time())
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGKILL)
            kills.workers.append(name)
        time.sleep(chance.uniform(0.5, 2.0))


def _workers(driver: int) -> list[tuple[psutil.Process, str]]:
    """Ray's worker processes below a driver that have work, and their titles.

    Not the two agents: the node goes with them, and this cluster has only one.
    """
    try:
        family = psutil.Process(driver).children(recursive=True)
        named = [(p, " ".join(p.cmdline()).strip()) for p in family]
    except psutil.Error:
        return []
    spared = ("IDLE", "DashboardAgent", "RuntimeEnvAgent")
    return [
        (p, name)
        for p, name in named
        if name.startswith("ray::") and not any(s in name for s in spared)
    ]


# --------------------------------------------------------------------------- what became of it


def _answers(events: list[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """When each request came and was answered in full, by its hash."""
    came = collections.defaultdict(collections.deque[float])
    answers = collections.defaultdict(list)
    for event in events:
        if event["event"] == "arrival":
            came[event["sha256"]].append(event["t"])
            continue
        since = came[event["sha256"]].popleft()
        if event["completed"]:
            answers[event["sha256"]].append((since, event["t"]))
    return answers


def _repeats(
    calm: dict[str, list[tuple[float, float]]],
    wild: dict[str, list[tuple[float, float]]],
    kills: list[float],
) -> tuple[int, int]:
    """Answers beyond those of the undisturbed run: of requests in flight at a kill, and others."""
    explained = unexplained = 0
    for request, answers in wild.items():
        more = max(0, len(answers) - len(calm.get(request, ())))
        hit = sum(
            any(came <= kill <= gone + _ON_ITS_WAY for kill in kills) for came, gone in answers
        )
        explained += min(more, hit)
        unexplained += max(0, more - hit)
    return explained, unexplained


def _compare(calm: Toy, wild: Toy) -> dict[str, Any]:
    before, after = _rows(calm), _rows(wild)
    wanted = collections.Counter(row["row_id"] for row in _ends(before))
    ends = list(_ends(after))
    got = collections.Counter(row["row_id"] for row in ends)
    source = wild.ledger()["stages"][0]["rows_in"]
    created = sum(row["parent_id"] is not None for row in ends)
    where = (f"{row['status']} {row['stage'] or ''}".strip() for row in ends)
    return {
        "rows": source,
        "fates": dict(collections.Counter(where)),
        "lost": (wanted - got).total(),
        "duplicated": (got - wanted).total(),
        "accounted": len(got) == got.total() == source + created,
        "identical": before == after,
    }


def _rows(toy: Toy) -> dict[str, list[dict[str, Any]]]:
    """Every row of every segment, in the order of their ids."""
    folders = sorted(path.parent.name for path in toy.run_dir.glob("stages/*/rows"))
    return {folder: toy.parts(folder).to_pylist() for folder in folders}


def _ends(segments: dict[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """The rows where they ended: dropped or failed on the way, or in the last segment."""
    last = max(segments, default="")
    for folder, rows in segments.items():
        yield from (row for row in rows if folder == last or row["status"] != "kept")


def _balanced(toy: Toy) -> bool:
    stages = toy.ledger()["stages"]
    adds_up = all(
        s["rows_in"] + s["created"] == s["kept"] + s["dropped"] + s["failed"] for s in stages
    )
    follows = all(a["kept"] == b["rows_in"] for a, b in itertools.pairwise(stages))
    return adds_up and follows


def _repeated_on_storage(run_dir: Path) -> int:
    # A unit asks an identical request once; two units may ask the same.
    asked = collections.Counter(
        (path.parent, json.loads(line)["key"])
        for path in run_dir.glob("responses/**/*.jsonl")
        for line in path.read_text().splitlines()
        if '"text":' in line and line.endswith("}")
    )
    return asked.total() - len(asked)


def main() -> None:
    """The experiment at the size that is asked for; prints its outcome as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--job", choices=["toy", "qa"], default="toy")
    parser.add_argument("--source", type=Path, help="for the job qa: a CSV file")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--unit-rows", type=int, default=100)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--driver-kills", type=int, default=3)
    parser.add_argument("--worker-kills", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    sizes = {"rows": options.rows, "unit_rows": options.unit_rows}
    make_job: MakeJob = partial(toy_job, **sizes)
    if options.job == "qa":
        if options.source is None:
            parser.error("--job qa needs --source")
        make_job = partial(qa_job, source=options.source.resolve(), **sizes)
    answer = "draft" if options.job == "qa" else "question"
    done_with = ("job", "source", "rows", "unit_rows")
    how = {name: value for name, value in vars(options).items() if name not in done_with}
    with tempfile.TemporaryDirectory() as folder:
        outcome = run_chaos(Path(folder), make_job, answer, **how)
    print(json.dumps(asdict(outcome), indent=2))
    sys.exit(0 if outcome.good() else 1)


if __name__ == "__main__":
    main()
