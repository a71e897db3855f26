"""From rows to a student through the command: accounts, reuse, kills, workers, bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from support.command import TESTS, Command, InProcess
from support.fork_server import Started
from support.tiny_models import word_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.trainings import read_curve

TRAINING = ["train-teacher", "teacher-log-probs", "distil", "train-alone", "evaluate"]
LETTERS = "abcdef"
#: Enough steps to be killed among them.
LOOP = {"epochs": 12, "learning_rate": 3e-3, "checkpoint_every": 5, "patience": None}


def model_folder(folder: Path, words: str = "") -> Path:
    """A random model of three layers with a tokenizer of single words."""
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(words.split())
    torch.manual_seed(3)
    config = LlamaConfig(
        num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, hidden_size=16,
        intermediate_size=32, max_position_embeddings=64, vocab_size=67, bos_token_id=4,
        eos_token_id=4, pad_token_id=4,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make(folder: Path, model: Path, answers: bool = True, **stages: Any) -> Path:
    """A configuration of 216 questions about three letters each; the answer is two of them."""
    rows = [
        {"question": f"what is the answer of {a} {b} {c} ?", "answer": f"{c} {a}" * answers}
        for a in LETTERS
        for b in LETTERS
        for c in LETTERS
    ]
    folder.mkdir(exist_ok=True)
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    batches = {"step_rows": 32, "batch_tokens": 400}
    defaults: dict[str, Any] = {
        "split": {"validation": 0.1, "test": 0.1},
        "tokenise": {"model": str(model)},
        "train-teacher": {"model": str(model), "loop": LOOP, "batches": batches},
        "teacher-log-probs": {"k": 8},
        "distil": {"loop": LOOP, "batches": batches, "temperature": 1.5},
    }
    config = {
        "name": "distilling",
        "job": str(TESTS / "support/jobs/distilling.py"),
        "run_dir": str(folder / "run"),
        "unit_rows": 50,
        "source": {"path": str(source)},
        "stages": {name: {**value, **stages.pop(name, {})} for name, value in defaults.items()},
    }
    assert not stages
    path = folder / "config.json"
    path.write_text(json.dumps(config))  # which is YAML too
    return path


def stages_of(run: Path) -> dict[str, dict[str, Any]]:
    ledger = json.loads((run / "ledger.json").read_text())
    return {stage["name"]: stage for stage in ledger["stages"]}


def weights(run: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(run / f"models/{name}/model.safetensors")


def curve(run: Path, stage: str) -> list[dict[str, Any]]:
    (folder,) = run.glob(f"stages/*-{stage}/work")
    return read_curve(Storage(str(folder)), "curve.jsonl")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def calm(ray_cluster: str, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("calm")
    done = InProcess(folder, ray_cluster)("run", make(folder, tiny))
    assert done.code == 0, done.text
    return folder


def test_from_rows_to_a_student(calm: Path) -> None:
    run = calm / "run"
    stages = stages_of(run)
    assert list(stages) == ["source", "split", "tokenise", *TRAINING]
    assert all(stage["kept"] == 216 for stage in stages.values())
    metrics = json.loads((run / "metrics.json").read_text())
    for name in ("train-teacher", "distil", "train-alone"):
        figures = metrics[name]
        assert 140 < figures["rows"] < 200
        assert figures["answer_tokens"] == 3 * figures["rows"]  # two letters and the end
        losses = [line["cross_entropy"] for line in curve(run, name) if "cross_entropy" in line]
        assert len(losses) == figures["steps"] == 12 * -(-figures["rows"] // 32)
        assert losses[-1] < 0.8 * losses[0]
    assert not list(run.glob("stages/*/work/checkpoints/*"))
    layers = {name: len({k.split(".")[2] for k in weights(run, name) if ".layers." in k})
              for name in ("teacher", "student", "student-alone")}  # fmt: skip
    assert layers == {"teacher": 3, "student": 1, "student-alone": 1}
    header = (run / "exports/dataset.csv").read_text().splitlines()[0]
    assert "input_ids" not in header and "teacher" not in header


def test_what_is_finished_is_reused(calm: Path, ray_cluster: str) -> None:
    run, command = calm / "run", InProcess(calm, ray_cluster)
    trained = weights(run, "teacher")
    assert command("run", calm / "config.json").code == 0
    assert all(stage["reused"] for stage in stages_of(run).values())

    # Other objective: the teacher and what it said stay. Batches of another size change nothing.
    change = ["--set", "stages.distil.alpha=1.0", "--set", "stages.distil.batches.batch_tokens=300"]
    copy = calm / "copy"
    shutil.copytree(run, copy)
    done = command("run", calm / "config.json", "--run-dir", copy, *change)
    assert done.code == 0, done.text
    reused = {name: stage["reused"] for name, stage in stages_of(copy).items()}
    assert [name for name, was in reused.items() if not was] == TRAINING[2:]

    # A model that was deleted is made again, and what was made with it.
    (copy / "models/teacher/config.json").unlink()
    done = command(
        "run", calm / "config.json", "--run-dir", copy, *change, "--until", "train-teacher"
    )
    assert done.code == 0, done.text
    assert not stages_of(copy)["train-teacher"]["reused"]
    for name, value in weights(copy, "teacher").items():
        assert torch.equal(value, trained[name])


def test_other_rows_make_another_teacher_and_another_cache(
    calm: Path, tiny: Path, tmp_path: Path, ray_cluster: str
) -> None:
    """An appended file runs its own units alone, but not behind a model that learnt from it."""
    command = InProcess(tmp_path, ray_cluster)
    shutil.copytree(calm / "run", tmp_path / "run")
    config = json.loads((calm / "config.json").read_text())
    more = tmp_path / "more.jsonl"
    more.write_text(json.dumps({"question": "what is the answer of a ?", "answer": "a a"}) + "\n")
    config["source"]["path"] = [config["source"]["path"], str(more)]
    config["run_dir"] = str(tmp_path / "run")
    (tmp_path / "config.json").write_text(json.dumps(config))
    before = stages_of(tmp_path / "run")
    done = command("run", tmp_path / "config.json", "--until", "teacher-log-probs")
    assert done.code == 0, done.text
    after = stages_of(tmp_path / "run")
    assert after["tokenise"]["fingerprint"] == before["tokenise"]["fingerprint"]
    assert after["teacher-log-probs"]["fingerprint"] != before["teacher-log-probs"]["fingerprint"]
    (folder,) = (tmp_path / "run/stages").glob("*-teacher-log-probs")
    teachers = set()
    for part in folder.glob("rows/*.parquet"):
        teachers |= set(pq.read_table(part, columns=["teacher"])["teacher"].drop_null().to_pylist())
    assert len(teachers) == 1


def until_checkpoint(process: Started, run: Path, stage: str, number: int) -> None:
    """Wait for a training's checkpoint of a step of at least this number."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        found = run.glob(f"stages/*-{stage}/work/checkpoints/step-*.pt")
        if any(int(path.stem.split("-")[1]) >= number for path in found):
            return
        time.sleep(0.02)
    raise AssertionError(f"{stage} came to no checkpoint")


@pytest.mark.chaos
def test_killed_in_mid_epoch_it_ends_with_the_same_weights(
    calm: Path, tiny: Path, tmp_path: Path, own_process: Command
) -> None:
    command = own_process
    config = make(tmp_path, tiny)
    for stage in ("train-teacher", "distil"):
        process = command.start("run", config)
        until_checkpoint(process, tmp_path / "run", stage, 10)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert not (tmp_path / f"run/models/{stage.removeprefix('train-')}").exists()
    done = command("run", config)
    assert done.code == 0, done.text
    for name in ("teacher", "student", "student-alone"):
        expected = weights(calm / "run", name)
        for key, value in weights(tmp_path / "run", name).items():
            assert torch.equal(value, expected[key]), (name, key)
    for stage in ("train-teacher", "distil"):
        mine, theirs = (
            [{k: v for k, v in line.items() if k != "seconds"} for line in curve(run, stage)]
            for run in (tmp_path / "run", calm / "run")
        )
        assert mine == theirs


def train_workers(parent: int) -> list[int]:
    """Processes of Ray Train's workers, on whatever cluster."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"RayTrainWorker" in path.read_bytes() and int(path.parent.name) != parent:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.chaos
@pytest.mark.slow
def test_two_workers_one_of_them_killed(
    calm: Path, tiny: Path, tmp_path: Path, ray_cluster: str
) -> None:
    workers = {"workers": {"number": 2, "cpus": 0.5}}
    config = make(tmp_path, tiny, **{"train-teacher": workers})
    process = Command(ray_cluster, tmp_path).start("run", config, "--until", "train-teacher")
    until_checkpoint(process, tmp_path / "run", "train-teacher", 10)
    os.kill(train_workers(process.pid)[0], signal.SIGKILL)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, out + err
    expected = weights(calm / "run", "teacher")
    for key, value in weights(tmp_path / "run", "teacher").items():
        torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=1e-5)
    mine, theirs = (curve(run, "train-teacher") for run in (tmp_path / "run", calm / "run"))
    assert [line["step"] for line in mine] == [line["step"] for line in theirs]
    for one, other in zip(mine, theirs, strict=True):
        for name in one.keys() & {"loss", "gradient_norm", "validation_loss"}:
            assert one[name] == pytest.approx(other[name], rel=1e-3), name


def test_a_configuration_that_cannot_work_is_refused_before_anything_is_trained(
    tiny: Path, tmp_path: Path
) -> None:
    other = model_folder(tmp_path / "other", "another vocabulary")
    (tmp_path / "empty").mkdir()
    wrong = {
        f"train-teacher.model={other}": "different tokenizers",
        f"train-teacher.model={tmp_path}/empty": "it lacks config.json",
        f"train-teacher.model={tmp_path}/nowhere": "does not exist",
        f'distil.student={{"model":"{other}"}}': "different tokenizers",
        "distil.workers.number=50": "stages.distil 50",
        "distil.student.every=0": "stages.distil.student.every",
        "teacher-log-probs.k=0": "stages.teacher-log-probs stores none",
        "distil.alpha=-1": "stages.distil.alpha",
        "split.test=0.95": "nothing is left to train on",
    }
    config, command = make(tmp_path / "made", tiny), InProcess(tmp_path)
    for assignment, words in wrong.items():
        key, value = assignment.split("=", 1)
        change = ["--set", f"stages.{key}={value}"]
        done = command("plan", config, *change)
        assert done.code == 2, (assignment, done.text)
        assert words in " ".join(done.err.split()), (assignment, done.err)
        assert "Traceback" not in done.text
    assert not (tmp_path / "made/run/models").exists()


def test_rows_without_answers_leave_nothing_to_train_on(
    command: Command, tiny: Path, tmp_path: Path
) -> None:
    done = command("run", make(tmp_path, tiny, answers=False))
    assert done.code == 2, done.text
    (line,) = done.err.splitlines()
    assert "stages.train-teacher: there are no train rows to train on. The split gave" in line
    assert "tokenise dropped 216 (tokens:no_answer 216). Their column 'answer' is empty" in line
    assert (tmp_path / "run/report.html").is_file()
    assert stages_of(tmp_path / "run")["tokenise"]["reasons"] == {"tokens:no_answer": 216}
    assert not (tmp_path / "run/models").exists()
