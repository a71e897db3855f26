"""A cluster of one CPU: every kind of stage goes through, or the command says what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support.command import REPOSITORY, Command
from support.mock_openai import MockServer
from support.one_cpu_cluster import one_cpu_cluster
from support.toy_run import make_toy

TEXTS = [f"row {i % 30}" + " drop" * (i % 10 == 3) + " twin" * (i == 5) for i in range(60)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    with one_cpu_cluster() as environment:
        yield environment


@pytest.fixture
def command(cluster: dict[str, str], tmp_path: Path) -> Command:
    command = Command(None, tmp_path)
    command.environment |= cluster
    return command


def test_questions(command: Command, tmp_path: Path) -> None:
    with MockServer(latency=0.05) as server:
        llm = {"engine": "openai", "model": "m", "base_url": server.base_url, "api_keys_env": []}
        toy = make_toy(
            tmp_path,
            TEXTS,
            pipeline="toy_ask",
            llms={"mock": {**llm, "actors": 3}},
            stages={"ask": {"llm": "mock", "prompt": "ask"}},
        )
        done = command("run", toy.config_file, timeout=90)
    assert done.code == 0, done.text
    assert toy.stage("shout")["dropped"] == 6
    assert toy.stage("whisper")["kept"] == 55


def test_decisions(command: Command, tmp_path: Path) -> None:
    toy = make_toy(tmp_path, TEXTS, pipeline="toy_decide")
    done = command("run", toy.config_file, timeout=90)
    assert done.code == 0, done.text
    assert toy.stage("first")["reasons"] == {"duplicate:exact": 55 - 28}
    assert toy.stage("whisper")["kept"] == 28


def demo(folder: Path, rows: int) -> Path:
    """The demo of this repository with fewer rows, its run directory in the folder."""
    config = yaml.safe_load((REPOSITORY / "configs/qa_distillation/demo.yaml").read_text())
    config |= {"run_dir": str(folder / "run"), "until": "accept-paraphrases"}
    config["source"] = {**config["source"], "path": str(REPOSITORY / "samples/qa.csv")}
    config["source"]["limit"] = rows
    file = folder / "demo.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def test_a_model_stage_that_leaves_no_cpu_for_the_others(command: Command, tmp_path: Path) -> None:
    config = demo(tmp_path, 20)
    wish = ("--until", "match-choices", "--set", "stages.match-choices.num_cpus=1")
    for done in command.both(config, *wish):
        assert done.code == 2, done.text
        assert "needs 2 CPUs at the same time" in done.err
        assert "stages.match-choices 1" in done.err
        assert "the cluster has 1;" in done.err
        assert "Traceback" not in done.text


def test_a_run_without_an_address_does_not_join_the_private_cluster_of_another(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    script = (
        "import ray\n"
        "from pathlib import Path\n"
        "from ray_pipeline.engine.cluster import joined\n"
        "with joined(None, Path('ray.log')):\n"
        "    address = ray.get_runtime_context().gcs_address\n"
        "print('address', address)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    (address,) = [line.split()[1] for line in done.stdout.splitlines() if "address" in line]
    assert address != cluster["RAY_ADDRESS"]
