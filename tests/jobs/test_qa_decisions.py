"""The decide stages of `qa_distillation` through the command: layouts, kills, wild rows."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pyarrow as pa
import pytest
from support.command import Command, InProcess
from support.one_cpu_cluster import other_cluster
from support.toy_run import Toy, make_toy

STAGES = ["outlier-clusters", "exact-duplicates", "same-question", "same-answer", "near-duplicates"]
WORDS = [f"word{i}" for i in range(300)]


def rows(number: int, seed: int = 5) -> list[dict[str, str]]:
    """Questions in ten topics, some equal to earlier ones, some nearly, some in part."""
    rng = random.Random(seed)
    made: list[dict[str, str]] = []
    while len(made) < number:
        chance = rng.random()
        if made and chance < 0.1:
            made.append(dict(rng.choice(made)))
        elif made and chance < 0.13:
            made.append({**rng.choice(made), "answer": "another"})
        elif made and chance < 0.3:
            words = rng.choice(made)["question"].split()
            words[rng.randrange(len(words))] = rng.choice(WORDS)
            made.append({"question": " ".join(words), "answer": f"answer {rng.randrange(99)}"})
        else:
            topic = rng.randrange(10) * 30
            words = [WORDS[topic + rng.randrange(30)] for _ in range(rng.randint(20, 40))]
            made.append({"question": " ".join(words), "answer": f"answer {rng.randrange(99)}"})
    return made


def make(folder: Path, data: list[dict[str, str]], **keys: object) -> Toy:
    folder.mkdir(exist_ok=True)
    stages = {"outlier-clusters": {"exact_rows": 300, "part_rows": 150, "dimensions": 8}}
    stages["near-duplicates"] = {"must_equal": [], "ngram": 2}
    toy = make_toy(folder, [], "deciding", unit_rows=100, stages=stages, **keys)
    toy.source.write_text("".join(json.dumps(row) + "\n" for row in data))
    return toy


def everything(toy: Toy) -> list[pa.Table]:
    """All rows of every decide stage, with their status, reason and evidence."""
    folders = sorted((toy.run_dir / "stages").glob("*"))
    assert [folder.name[3:] for folder in folders] == ["bag-of-words", *STAGES]
    return [toy.parts(folder.name) for folder in folders]


@pytest.fixture(scope="module")
def undisturbed(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A run on two CPUs to compare with."""
    folder = tmp_path_factory.mktemp("undisturbed")
    toy = make(folder, rows(1_000))
    done = InProcess(folder, ray_cluster)("run", toy.config_file)
    assert done.code == 0, done.text
    return toy


def test_the_decisions_are_what_they_should_be(undisturbed: Toy) -> None:
    tables = dict(zip(["bag-of-words", *STAGES], everything(undisturbed), strict=True))
    clusters = tables["outlier-clusters"].to_pylist()
    assert "embedding" not in tables["exact-duplicates"].column_names
    assert len({row["outlier_cluster"] for row in clusters}) >= 5
    assert all(row["status"] == "kept" for row in clusters)
    texts = {(row["question"], row["answer"]) for row in clusters}
    exact = undisturbed.stage("exact-duplicates")
    assert exact["kept"] == len(texts)
    assert exact["dropped"] == 1_000 - len(texts) > 50
    assert undisturbed.stage("near-duplicates")["dropped"] > 50
    groups = [r["same_question_group"] for r in tables["same-question"].to_pylist()]
    assert sum(group is not None for group in groups) > 20


@pytest.mark.parametrize("workers", [1, 7])
def test_the_same_rows_with_other_workers(undisturbed: Toy, tmp_path: Path, workers: int) -> None:
    command = Command(None, tmp_path)
    with other_cluster(workers) as environment:
        command.environment |= environment
        toy = make(tmp_path, [], source={"path": str(undisturbed.source)})
        done = command("run", toy.config_file)
    assert done.code == 0, done.text
    assert everything(toy) == everything(undisturbed)


@pytest.mark.chaos
def test_a_kill_inside_each_decide_stage(
    undisturbed: Toy, tmp_path: Path, own_process: Command
) -> None:
    command = own_process
    toy = make(tmp_path, [], source={"path": str(undisturbed.source)})
    for stage in STAGES:
        process = command.start("run", toy.config_file)
        deadline = time.monotonic() + 120
        while not list(toy.run_dir.glob(f"stages/*-{stage}/decisions/work-*/*")):
            assert process.poll() is None, "it ended before the stage"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        (folder,) = (toy.run_dir / "stages").glob(f"*-{stage}")
        assert not (folder / "decisions/done.json").exists(), "it was killed too late"
    done = command("run", toy.config_file)
    assert done.code == 0, done.text
    assert everything(toy) == everything(undisturbed)
    assert not list(toy.run_dir.glob("stages/*/decisions/work-*"))
