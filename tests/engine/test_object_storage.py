"""Whole runs on object storage: source and run directory on ``s3://``, kills, readers, the lock."""

from __future__ import annotations

import collections
import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from support.command import TESTS, Command
from support.mock_openai import MockServer
from support.one_cpu_cluster import other_cluster
from support.s3_conditions import make_older
from support.tiny_tradeoff import make

from ray_pipeline.rundir.responses import FLUSH_SECONDS

ROWS, UNIT_ROWS = 160, 10
CONCURRENCY, LATENCY = 8, 0.4


@pytest.fixture(scope="module")
def cluster(s3: Any) -> Iterator[dict[str, str]]:
    """A cluster whose workers have the S3 server in their environment."""
    with other_cluster(2) as environment:
        yield environment


@pytest.fixture
def command(cluster: dict[str, str], tmp_path: Path) -> Command:
    command = Command(None, tmp_path)
    command.environment |= cluster
    return command


class S3Toy:
    """A toy job whose source and run directory are objects.

    `queries`: number of rows of a second source, for the job of two named sources.
    """

    def __init__(
        self, s3: Any, folder: Path, server: MockServer, name: str, queries: int = 0
    ) -> None:
        self._s3 = s3
        self._name = name
        self.uri = f"s3://bucket/{name}/run"
        lines = "".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(ROWS))
        s3.put_object(Bucket="bucket", Key=f"{name}/texts.jsonl", Body=lines.encode())
        (folder / "prompts").mkdir()
        (folder / "prompts/ask.yaml").write_text('user: "Say something about {{ text }}"\n')
        llm = {"engine": "openai", "model": "m", "base_url": server.base_url, "api_keys_env": []}
        config = {
            "name": "toy",
            "job": str(TESTS / "support/jobs/toy_ask.py"),
            "run_dir": self.uri,
            "unit_rows": UNIT_ROWS,
            "source": {"path": f"s3://bucket/{name}/*.jsonl"},
            "llms": {"mock": {**llm, "concurrency": CONCURRENCY}},
            "stages": {"ask": {"llm": "mock", "prompt": "ask"}},
        }
        if queries:
            lines = "".join(
                json.dumps({"text": f"where is {i}?", "topic": "a"}) + "\n" for i in range(queries)
            )
            s3.put_object(Bucket="bucket", Key=f"{name}/queries/q.jsonl", Body=lines.encode())
            config["job"] = str(TESTS / "support/jobs/toy_sources.py")
            config["sources"] = {
                "corpus": config.pop("source"),
                "queries": {"path": f"s3://bucket/{name}/queries"},
            }
        self.config_file = folder / "config.yaml"
        self.config_file.write_text(yaml.safe_dump(config))

    def objects(self, path: str = "") -> list[str]:
        """Objects of the run directory below a path, relative to it."""
        prefix = f"{self._name}/run/{path}"
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix=prefix)
        found = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return [key.removeprefix(f"{self._name}/run/") for key in found]

    def read(self, path: str) -> bytes:
        body = self._s3.get_object(Bucket="bucket", Key=f"{self._name}/run/{path}")["Body"]
        return bytes(body.read())

    def write(self, path: str, data: bytes) -> None:
        self._s3.put_object(Bucket="bucket", Key=f"{self._name}/run/{path}", Body=data)

    def ledger(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(self.read("ledger.json"))
        return result

    def rows(self, folder: str) -> list[dict[str, Any]]:
        paths = self.objects(f"stages/{folder}/rows/part-")
        tables = [pq.read_table(pa.BufferReader(self.read(path))) for path in paths]
        rows: list[dict[str, Any]] = pa.concat_tables(tables).to_pylist()
        return rows

    def answers(self) -> collections.Counter[str]:
        """How often each request's answer is in the journal."""
        return collections.Counter(
            json.loads(line)["key"]
            for path in self.objects("responses/")
            for line in self.read(path).splitlines()
        )


def test_a_run_that_is_killed_goes_on(s3: Any, command: Command, tmp_path: Path) -> None:
    with MockServer(latency=LATENCY) as server:
        toy = S3Toy(s3, tmp_path, server, "killed")
        # Alone on a cluster of its own, which dies with it.
        first = Command("local", tmp_path).start("run", toy.config_file)
        wait_until(lambda: server.stats()["completed"] >= ROWS // 4)

        refused = command("run", toy.config_file)
        assert refused.code == 2, refused.text
        assert f"{toy.uri}: another run holds this directory: process {first.pid}" in refused.err
        wait_until(lambda: server.stats()["completed"] >= ROWS * 5 // 8)
        assert first.poll() is None, "the run ended before it could be killed"

        # The driver and all of its cluster, as when a machine is lost: what is left is in S3.
        for process in [*psutil.Process(first.pid).children(recursive=True), first]:
            process.kill()
        first.communicate(timeout=60)
        asked = server.stats()["completed"]
        # The lock of a process of this machine that has ended is taken over at once.
        second = command("run", toy.config_file)
        assert second.code == 0, second.text
        stats = server.stats()
    # What the killed workers had in hand is asked again: what was in flight, and what came in
    # since the responses were last put.
    window = FLUSH_SECONDS + 1.5  # looked at once a second; and the time to put them
    lost = CONCURRENCY * (1 + window / LATENCY)
    assert asked < ROWS
    assert stats["repeated_completed"] <= lost < asked
    assert stats["arrivals"] <= ROWS + lost
    assert sum(toy.answers().values()) - len(toy.answers()) <= lost

    ledger = toy.ledger()
    assert ledger["status"] == "succeeded"
    s3.head_object(Bucket="bucket", Key=f"{toy.uri.removeprefix('s3://bucket/')}/logs/ray.log")
    for stage in ledger["stages"]:
        assert (stage["rows_in"], stage["kept"], stage["created"]) == (ROWS, ROWS, 0)
    ask = ledger["stages"][2]["llm"]
    assert ask["requests"] + ask["reused"] <= ROWS
    rows = toy.rows("03-whisper")
    assert sorted(row["text"] for row in rows) == sorted(f"text {i}" for i in range(ROWS))
    assert len({row["row_id"] for row in rows}) == ROWS
    assert all(row["answer"] and row["status"] == "kept" for row in rows)
    assert len(toy.answers()) == ROWS
    assert "run.lock" not in toy.objects()
    exported = toy.read("exports/dataset.jsonl").splitlines()
    assert len(exported) == ROWS

    again = command("run", toy.config_file, RAY_ADDRESS="127.0.0.1:1")
    assert again.code == 0, again.text
    assert [stage["reused"] for stage in toy.ledger()["stages"]] == [True] * 4


def wait_until(happened: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_the_readers_of_a_run_with_two_sources(s3: Any, command: Command, tmp_path: Path) -> None:
    with MockServer() as server:
        toy = S3Toy(s3, tmp_path, server, "readers", queries=12)
        planned = command("plan", toy.config_file)
        assert planned.code == 0, planned.text
        assert not toy.objects()
        done = command("run", toy.config_file)
        assert done.code == 0, done.text
        assert server.stats()["arrivals"] == 12
    assert f"report: {toy.uri}/report.html" in done.out
    for stage in toy.ledger()["stages"]:
        kept = {source: rows["kept"] for source, rows in stage["sources"].items()}
        assert kept == {"corpus": ROWS, "queries": 12}, stage["name"]
    assert len(json.loads(toy.read("index.json"))["texts"]) == ROWS
    compared = collections.Counter(
        row["source_name"] for row in json.loads(toy.read("compared.json"))
    )
    assert compared == {"corpus": ROWS, "queries": 12}

    done = command("status", toy.uri)
    assert done.code == 0, done.text
    assert "succeeded" in done.out
    assert ["corpus", str(ROWS), str(ROWS)] in [line.split() for line in done.out.splitlines()]

    done = command("rows", toy.uri, "ask", "--source", "queries", "--json", "--limit", "99")
    assert done.code == 0, done.text
    shown = [json.loads(line) for line in done.out.splitlines()]
    assert len(shown) == 12
    assert all(row["source_name"] == "queries" and row["answer"] for row in shown)

    done = command("trace", toy.uri, shown[0]["row_id"][:8])
    assert done.code == 0, done.text
    assert shown[0]["text"] in done.out
    assert all(stage in done.out for stage in ("shout", "first", "ask"))

    before = toy.read("report.html")
    toy.write("report.html", b"")
    done = command("report", toy.uri)
    assert done.code == 0, done.text
    assert len(toy.read("report.html")) == pytest.approx(len(before), rel=0.1)

    done = command("status", "s3://bucket/nothing/here")
    assert done.code == 2, done.text
    assert "s3://bucket/nothing/here" in done.err
    assert "Traceback" not in done.text


def test_locks_that_were_left(s3: Any, command: Command, tmp_path: Path) -> None:
    with MockServer() as server:
        toy = S3Toy(s3, tmp_path, server, "locks")
        owner = {"id": "x", "host": "elsewhere", "pid": 1, "started": "2026-01-01 00:00:00"}
        toy.write("run.lock", json.dumps(owner).encode())
        done = command("run", toy.config_file)
        assert done.code == 2, done.text
        assert "process 1 on elsewhere, started 2026-01-01 00:00:00" in done.err
        assert json.loads(toy.read("run.lock"))["id"] == "x"
        # It was not renewed for more than half a minute: it is abandoned.
        make_older("locks/run/run.lock", 31)
        done = command("run", toy.config_file)
        assert done.code == 0, done.text


def test_a_paused_run_that_was_replaced_stops_before_it_writes_or_asks(
    s3: Any, command: Command, tmp_path: Path
) -> None:
    with MockServer(latency=LATENCY) as server:
        toy = S3Toy(s3, tmp_path, server, "paused")
        first = Command("local", tmp_path).start("run", toy.config_file)
        wait_until(lambda: server.stats()["completed"] >= ROWS // 4)
        # The driver and all of its cluster, as when a machine sleeps.
        processes = [psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)]
        for process in processes:
            process.suspend()
        wait_until(lambda: server.stats()["completed"] == server.stats()["arrivals"])
        make_older("paused/run/run.lock", 31)
        second = command("run", toy.config_file)
        assert second.code == 0, second.text
        after, ledger = server.stats()["arrivals"], toy.ledger()
        left = {path: toy.read(path) for path in toy.objects()}
        for process in processes:
            process.resume()
        out, err = first.communicate(timeout=120)
        assert first.returncode == 1, out + err
        assert "this run does not hold the directory any more" in err
        assert len(err.strip().splitlines()) == 1 and "Traceback" not in out
        assert server.stats()["arrivals"] == after
    assert {path: toy.read(path) for path in toy.objects()} == left
    assert ledger["status"] == toy.ledger()["status"] == "succeeded"


def test_a_bucket_that_is_not_there_or_goes_away(s3: Any, command: Command, tmp_path: Path) -> None:
    with MockServer(latency=LATENCY) as server:
        toy = S3Toy(s3, tmp_path, server, "lost")
        done = command("run", toy.config_file, "--run-dir", "s3://no-such-bucket/run")
        assert done.code in (1, 2), done.text
        assert "s3://no-such-bucket/run" in done.err
        assert "Traceback" not in done.text

        s3.create_bucket(Bucket="mortal")
        process = command.start("run", toy.config_file, "--run-dir", "s3://mortal/run")
        wait_until(lambda: server.stats()["completed"] >= ROWS // 4)
        s3_remove(s3, "mortal")
        out, err = process.communicate(timeout=120)
    assert process.returncode == 1, out + err
    assert "s3://mortal/run/" in err
    assert "Traceback" not in out + err


def test_a_bucket_that_refuses_stops_sending(s3: Any, command: Command, tmp_path: Path) -> None:
    lost = 0
    with MockServer(latency=LATENCY) as server:
        toy = S3Toy(s3, tmp_path, server, "refusing")
        refusals = ((403, "ACCESS_DENIED", ROWS // 4), (503, "SLOW_DOWN", ROWS // 2))
        for status, name, from_answers in refusals:
            process = command.start("run", toy.config_file)
            wait_until(lambda least=from_answers: server.stats()["completed"] >= least)
            s3.refusals.status = status
            try:
                out, err = process.communicate(timeout=120)
            finally:
                s3.refusals.status = None
            assert process.returncode == 1, out + err
            assert f"{toy.uri}/" in err and name in err
            assert "Traceback" not in out + err and len(err.strip().splitlines()) == 1, err
            lost += sum(map(int, re.findall(r"(\d+) answers? that had arrived", err)))
            # Every answer that the server gave is in the bucket, or counted in the message.
            assert server.stats()["completed"] == sum(toy.answers().values()) + lost < ROWS
        done = command("run", toy.config_file)
        assert done.code == 0, done.text
        assert server.stats()["completed"] == ROWS + lost
    assert len(toy.rows("02-ask")) == ROWS


def s3_remove(s3: Any, bucket: str) -> None:
    """Remove a bucket, however much is still written to it."""
    for _ in range(20):
        with contextlib.suppress(s3.exceptions.ClientError):
            for item in s3.list_objects_v2(Bucket=bucket).get("Contents", []):
                s3.delete_object(Bucket=bucket, Key=item["Key"])
            s3.delete_bucket(Bucket=bucket)
            return
    raise AssertionError("the bucket does not go away")


def test_an_experiment_leaves_everything_in_the_bucket(
    command: Command, s3: Any, tmp_path: Path
) -> None:
    one = {"best_20": {"rows": 20}}
    trainings = {"seeds": [1], "settings": {"best_20": {"epochs": 1, "learning_rate": 1e-2}}}
    config = make(tmp_path, **{"select-subsets": {"subsets": one}, "train-subsets": trainings})
    run_dir = ["--run-dir", "s3://bucket/experiment"]
    done = command("run", config, *run_dir)
    assert done.code == 0, done.text
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix="experiment/")
    there = {item["Key"].removeprefix("experiment/") for page in pages for item in page["Contents"]}
    assert len([path for path in there if path.startswith("experiment/cells/")]) == 3
    assert {
        "report.html",
        "experiment/results.csv",
        "experiment/generations.csv",
        "figures/learning_curves.png",
        "exports/subsets/best_20_scores.csv",
        "exports/subsets/best_20-random/dataset/dataset_dict.json",
    } <= there
    again = command("run", config, *run_dir)
    assert again.code == 0, again.text
    assert "making" in done.out and "making" not in again.out
    shown = command("preview", "s3://bucket/experiment", "--share", "0.1")
    assert shown.code == 0 and "rows to train on" in shown.out, shown.text
