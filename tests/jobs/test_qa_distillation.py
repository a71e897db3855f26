"""`jobs/qa_distillation.py` as a user runs it, from the first stage to the students, all tiny."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from support.command import REPOSITORY, InProcess
from support.mock_openai import MockServer
from support.tiny_models import word_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from ray_pipeline.pipeline import load_job

DEMO = REPOSITORY / "configs/qa_distillation/demo.yaml"
#: Rows of the sample; the last ones, among which is most of what each stage is for.
ROWS = 60


def tiny_teacher(folder: Path) -> Path:
    """A random model of three layers, whose tokenizer knows hardly any word of the questions."""
    torch.manual_seed(3)
    config = LlamaConfig(
        num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1, hidden_size=16,
        intermediate_size=32, max_position_embeddings=128, vocab_size=67, bos_token_id=4,
        eos_token_id=4, pad_token_id=4,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def settings(folder: Path, model: str, server: MockServer) -> dict[str, Any]:
    """The demo's configuration with tiny models, and with what the demo leaves off."""
    with (REPOSITORY / "samples/qa.csv").open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    with (folder / "qa.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows[-ROWS:]])
    config: dict[str, Any] = yaml.safe_load(DEMO.read_text())
    loop = {"epochs": 1, "learning_rate": 1e-3, "precision": "float32"}
    batches = {"step_rows": 32, "batch_tokens": 2048}
    for stage in config["stages"].values():
        if "prompt" in stage:
            stage["prompt"] = str(
                DEMO.parent.parent / f"prompts/qa_distillation/{stage['prompt']}.yaml"
            )
    config["stages"] |= {
        "split": {"validation": 0.15, "test": 0.2},
        "tokenise": {"model": model, "text": {"max_tokens": 96, "style": "plain"}},
        "train-teacher": {"model": model, "loop": loop, "batches": batches},
        "teacher-log-probs": {"k": 8},
        "search": {"trials": 2, "concurrency": 1, "loop": {"max_steps": 2}},
        "distil": {"student": {"layers": [0, 2]}, "loop": loop, "batches": batches, "seeds": 2},
        "evaluate": {"rows": 5, "version_rows": 2, "max_new_tokens": 4},
    }
    writer = {"engine": "openai", "model": "m", "base_url": server.base_url, "api_keys_env": []}
    return config | {
        "run_dir": str(folder / "run"),
        "save_every_stage": False,
        "source": config["source"] | {"path": str(folder / "qa.csv")},
        "llms": {"rewriter": writer | {"reasks": 0}},
        "budget": {"max_failed_rows": "100%"},
    }


@pytest.fixture(scope="module")
def run(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a whole run."""
    folder = tmp_path_factory.mktemp("qa")
    model = tiny_teacher(folder / "teacher")
    with MockServer() as server:
        config = folder / "config.yaml"
        config.write_text(yaml.safe_dump(settings(folder, str(model), server)))
        done = InProcess(folder, ray_cluster)("run", config, timeout=500)
    assert done.code == 0, done.text
    return folder / "run"


def test_every_stage_of_the_job_ran_and_balances(run: Path) -> None:
    ledger = json.loads((run / "ledger.json").read_text())
    names = [stage["name"] for stage in ledger["stages"]]
    assert names == ["source", *(stage.name for stage in load_job(DEMO).stages)]
    for stage, following in zip(ledger["stages"], ledger["stages"][1:], strict=False):
        left = stage["kept"] + stage["dropped"] + stage["failed"]
        assert stage["rows_in"] + stage["created"] == left
        assert following["rows_in"] == stage["kept"]
    created = {stage["name"]: stage["created"] for stage in ledger["stages"] if stage["created"]}
    assert set(created) == {f"augment-{kind}" for kind in ("formal", "casual", "general", "typos")}
    assert len(set(created.values())) == 1  # one of each original


def test_all_versions_of_a_row_are_on_one_side_of_the_split(run: Path) -> None:
    *_, folder = sorted(folder for folder in run.glob("stages/*/rows") if any(folder.iterdir()))
    rows = pa.concat_tables(pq.read_table(part) for part in folder.glob("*.parquet")).to_pylist()
    side = {row["row_id"]: row["split"] for row in rows}
    versions = [row for row in rows if row["version"] != "original"]
    assert len(versions) > 20
    assert all(row["split"] == side[row["parent_id"]] for row in versions)
    assert set(side.values()) == {"train", "validation", "test"}


def test_both_students_are_searched_trained_and_compared_alike(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    for search in ("search", "search-alone"):
        assert len(metrics[search]["history"]) == 2
    models = {path.name for path in (run / "models").iterdir()}
    students = {"student", "student-seed-2", "student-alone", "student-alone-seed-2"}
    assert students <= models
    for stage in ("train-teacher", "distil", "train-alone"):
        assert 0 < metrics[stage]["training_loss"] < 20
    evaluated = metrics["evaluate"]
    assert set(evaluated["models"]) == {"teacher", "student-before", "student", "student-alone"}
    assert len(evaluated["seeds"]["ratios"]) == 2
    ours, others = evaluated["seeds"]["perplexities"][0]
    assert ours == pytest.approx(evaluated["models"]["student"]["perplexity"])
    assert others == pytest.approx(evaluated["models"]["student-alone"]["perplexity"])
    report = (run / "report.html").read_text()
    for words in (
        "Over 2 trainings of each student",
        "got as many trials for its learning rate",
        "its teacher&#39;s",
        "Beside the original experiment",
    ):
        assert words in report
