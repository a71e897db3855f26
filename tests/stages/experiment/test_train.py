"""The experiment through the command: what it is planned to cost, what it leaves, its reuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.command import TESTS, Command
from support.tiny_experiment import MODEL
from support.tiny_models import word_tokenizer
from support.tiny_study import qa_rows
from transformers import AutoModelForCausalLM

SUBSETS = {"few": {"rows": 20}, "many": {"rows": 60}}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    tokenizer = tmp_path / "tokenizer"
    word_tokenizer().save_pretrained(tokenizer)
    (tokenizer / "config.json").write_text("{}")  # which makes it a model's folder
    rows = [
        {"instruction": row["question"], "response": row["answer"], "rank": rank}
        for rank, row in enumerate(qa_rows(100))
    ]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    experiment = {
        "model": MODEL,
        "seeds": [1, 2],
        "modes": ["epochs"],
        "settings": {name: {"epochs": 3, "learning_rate": 1e-2} for name in SUBSETS},
        "evaluations": 3,
        "batches": {"step_rows": 8, "batch_tokens": 256},
        "flops_per_second": 1e9,
    }
    path = tmp_path / "config.json"
    settings = {
        "name": "experiment",
        "job": str(TESTS / "support/jobs/experiment.py"),
        "run_dir": str(tmp_path / "run"),
        "unit_rows": 30,
        "source": {"path": str(source)},
        "stages": {
            "split": {"validation": 0.15, "test": 0.15},
            "tokenise": {"model": str(tokenizer), "text": {"max_tokens": 32}},
            "select-subsets": {"subsets": SUBSETS},
            "train-subsets": experiment,
        },
    }
    path.write_text(json.dumps(settings))
    return path


def test_a_run_leaves_records_and_models_and_goes_on(command: Command, config: Path) -> None:
    run = config.parent / "run"
    planned = command("plan", config)
    assert planned.code == 0, planned.text
    words = " ".join(planned.out.split())
    assert "train-subsets: 8 trainings: " in words and "GPU-hours at 1e+09 FLOP/s" in words

    done = command("run", config)
    assert done.code == 0, done.text
    records = {path.name: json.loads(path.read_text()) for path in run.glob("experiment/cells/*")}
    assert len(records) == 8
    one = records["many-random.epochs.seed1.lr0.01.json"]
    assert (one["of"], one["control"], one["seed"]) == ("many", True, 1)
    assert one["model"] == "models/many-random.epochs.seed1.lr0.01"
    assert records["many-random.epochs.seed2.lr0.01.json"]["model"] is None
    assert one["tokens_seen"] == 3 * one["tokens"] and len(one["curve"]) == 3
    assert one["curve"][-1]["loss"] < one["curve"][0]["loss"]
    assert one["test_loss"] < 3.2 < torch.tensor(23.0).log() + 0.1  # less than at random
    for name in ("few", "many"):
        folder = run / f"models/{name}.epochs.seed1.lr0.01"
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert model.config.n_layer == 2 and (folder / "tokenizer.json").exists()
    index = json.loads((run / "experiment/cells.json").read_text())
    assert {f"{cell['cell']}.json" for cell in index} == set(records)
    metrics = json.loads((run / "metrics.json").read_text())["train-subsets"]
    assert (metrics["cells"], metrics["trainings"], metrics["diverged"]) == (8, 8, [])

    # Another seed trains its own cells alone; with fewer, what is not asked for is gone.
    more = command("run", config, "--set", "stages.train-subsets.seeds=[1, 3]")
    assert more.code == 0, more.text
    assert "8 cells, 4 of them finished before" in " ".join(more.out.split())
    after = {path.name: json.loads(path.read_text()) for path in run.glob("experiment/cells/*")}
    assert {cell["seed"] for cell in after.values()} == {1, 3}
    assert after["many-random.epochs.seed1.lr0.01.json"] == one


def test_what_cannot_work_is_refused(command: Command, config: Path) -> None:
    for assignment, words in {
        "num_cpus=64": "stages.train-subsets 64",
        "model.n_positions=16": "stages.train-subsets: model.n_positions is 16, and texts have",
        'settings={"none":{}}': "settings.none: there is no such subset",
    }.items():
        refused = command("plan", config, "--set", f"stages.train-subsets.{assignment}")
        assert refused.code == 2, refused.text
        assert words in " ".join(refused.err.split()), refused.err
