"""The job `quality_tradeoff` through the command: from a corpus to the answer, killed, refused."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from support.command import Command, InProcess
from support.tiny_tradeoff import make

#: Columns of the results that tell what was trained and what came of it, not how fast.
TIMES = ("seconds", "second", "efficiency")


def results(run: Path) -> list[dict[str, str]]:
    """The final table, without times."""
    with (run / "experiment/results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if not any(t in k for t in TIMES)} for row in rows]


@pytest.fixture(scope="module")
def calm(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of an undisturbed run."""
    folder = tmp_path_factory.mktemp("calm")
    done = InProcess(folder, ray_cluster)("run", make(folder))
    assert done.code == 0, done.text
    return folder / "run"


def test_from_a_corpus_to_the_answer(calm: Path) -> None:
    ledger = json.loads((calm / "ledger.json").read_text())
    for stage in ledger["stages"]:
        left = stage["kept"] + stage["dropped"] + stage["failed"]
        assert stage["rows_in"] + stage["created"] == left
    metrics = json.loads((calm / "metrics.json").read_text())
    sizes = {name: one["rows"] for name, one in metrics["write-subsets"]["subsets"].items()}
    assert sizes == {"best_20": 20, "best_60": 60} | {
        "best_20-random": 20, "best_20-random-2": 20, "best_60-random": 60
    }  # fmt: skip
    assert len(results(calm)) == 10
    (compared, _) = json.loads((calm / "experiment/analysis.json").read_text())["modes"]["epochs"][
        "controls"
    ]
    assert compared["draws"] == 2 and compared["covers"] == ["seeds", "choice of random rows"]
    for name in ("exp2_quality_vs_quantity", "exp2_training_efficiency", "learning_curves"):
        assert (calm / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
    assert (calm / "experiment/generations.csv").stat().st_size > 0
    assert (calm / "experiment/analysis.json").stat().st_size > 0
    page = (calm / "report.html").read_text()
    assert "Quality against quantity" in page and "How the scorers agree" in page
    with (calm / "exports/subsets/best_20_scores.csv").open(newline="") as file:
        scores = [float(row["score"]) for row in csv.DictReader(file)]
    assert scores == sorted(scores, reverse=True) and len(scores) == 20


#: Files of a run, and how many of them there are at the moment of a kill. Kills while parts are
#: written and while a stage decides are those of tests/chaos and tests/engine/test_decide.py.
MOMENTS = {
    "exports/subsets/*_scores.csv": 2,
    "experiment/cells/*.json": 2,
    "stages/*-generations/work/*.json": 3,
}


@pytest.mark.chaos
def test_killed_again_and_again_it_ends_with_the_same_table(
    calm: Path, ray_cluster: str, tmp_path: Path
) -> None:
    command, config, run = Command(ray_cluster, tmp_path), make(tmp_path), tmp_path / "run"
    killed, trained = 0, {}
    for files, number in MOMENTS.items():
        process = command.start("run", config)
        deadline = time.monotonic() + 170
        while len(list(run.glob(files))) < number and process.poll() is None:
            assert time.monotonic() < deadline, f"there are no {number} {files}"
            time.sleep(0.02)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        out, err = process.communicate(timeout=60)
        assert process.returncode in (-signal.SIGKILL, 0), out + err
        trained = trained or {p: p.stat().st_mtime_ns for p in run.glob("experiment/cells/*.json")}
    assert killed == len(MOMENTS)
    done = command("run", config)
    assert done.code == 0, done.text
    assert results(run) == results(calm)
    assert 2 <= len(trained) < 8
    assert all(path.stat().st_mtime_ns == written for path, written in trained.items())
    for file in ("exports/subsets/best_20_scores.csv", "experiment/generations.csv"):
        assert (run / file).read_bytes() == (calm / file).read_bytes()


def test_more_rows_than_there_are_takes_all_and_says_so(
    calm: Path, command: Command, tmp_path: Path
) -> None:
    shutil.copytree(calm, tmp_path / "run")  # the scores are those of the undisturbed run
    wanted = {"best_20": {"rows": 20}, "best_60": {"rows": 100_000}}
    change = ["--set", f"stages.select-subsets.subsets={json.dumps(wanted)}"]
    done = command("run", calm.parent / "config.json", "--run-dir", tmp_path / "run",
                   "--until", "write-subsets", *change)  # fmt: skip
    assert done.code == 0, done.text
    made = json.loads((tmp_path / "run/metrics.json").read_text())["write-subsets"]
    assert made["subsets"]["best_60"]["rows"] == made["pool"] < 160
    assert "100,000" in done.out and "best_60" in done.out


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    command = InProcess(tmp_path)
    config = make(tmp_path)
    for words, assignment in {
        "the weights sum to 0.7": "stages.weigh-scores.weights={clarity: 0.5, diversity: 0.2}",
        "instruction": "source.columns={instruction: Frage, response: response}",
        "stages.weigh-scores reads it: did you mean 'clarity', of stages.score-quality?": (
            "stages.weigh-scores.weights={clarty: 1.0}"
        ),
        "stages.weigh-scores needs 'ifd', which stages.score-ifd writes, and that is turned off": (
            "stages.weigh-scores.weights={clarity: 0.5, ifd: 0.5}"
        ),
        "n_positions": "stages.train-subsets.model.n_positions=16",
    }.items():
        refused = command("plan", config, "--set", assignment)
        assert refused.code == 2, refused.text
        assert words in " ".join(refused.err.split()), refused.err
    (tmp_path / "rows.jsonl").write_text("")
    refused = command("run", config)
    assert refused.code == 2, refused.text


def test_plan_keeps_the_rows_whose_scores_it_does_not_know(tmp_path: Path) -> None:
    command = InProcess(tmp_path)
    config = make(tmp_path, **{
        "score-novelty": {"enabled": True},
        "weigh-scores": {"weights": {"clarity": 0.5, "novelty": 0.5}},
    })  # fmt: skip
    done = command("plan", config)
    assert done.code == 0, done.text
    planned = {line.split()[0]: line.split() for line in done.out.splitlines() if line.strip()}
    assert "160" in planned["select-subsets"]
