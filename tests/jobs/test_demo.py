"""The demo's rows as a user runs them, with the real small model on a cluster of one CPU."""

from __future__ import annotations

import csv
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from support.command import REPOSITORY, Command
from support.one_cpu_cluster import one_cpu_cluster

#: Rows from the end of the sample: most of what each stage is for is among them.
ROWS = 90
SAMPLE = REPOSITORY / "samples/qa.csv"
DEMO = REPOSITORY / "configs/qa_distillation/demo.yaml"


def _run(command: Command, run_dir: Path, *sets: str, until: str | None = None) -> dict:
    settings = [part for key in sets for part in ("--set", key)]
    settings += ["--until", until] if until else []
    source = run_dir.with_name("qa.csv")
    with SAMPLE.open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    with source.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows[-ROWS:]])
    settings += ["--set", f"source.path={source}"]
    done = command("run", DEMO, "--run-dir", run_dir, *settings, timeout=600)
    assert done.code == 0, done.text
    ledger = json.loads((run_dir / "ledger.json").read_text())
    for stage in ledger["stages"]:
        left = stage["kept"] + stage["dropped"] + stage["failed"]
        assert stage["rows_in"] + stage["created"] == left
    return {stage["name"]: stage for stage in ledger["stages"]}


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed here")
def test_the_demo_on_vllm_with_one_cpu(tmp_path: Path) -> None:
    command, run = Command(None, tmp_path), tmp_path / "run"
    with one_cpu_cluster() as environment:
        command.environment |= environment
        _check_demo_on_vllm(command, run)


def _check_demo_on_vllm(command: Command, run: Path) -> None:
    settings = ["llms.rewriter.engine=vllm"]
    capabilities = torch.cpu.get_capabilities()
    if not (capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")):
        # Ten times slower in bfloat16 on such a processor: beyond the time limit.
        settings.append("llms.rewriter.dtype=float32")
    stages = _run(command, run, *settings, until="accept-paraphrases")
    assert stages["source"]["rows_in"] == ROWS
    assert stages["multiple-choice"]["kept"] > 65
    assert stages["multiple-choice"]["llm"]["requests"] > 0
    assert stages["drop-invalid"]["reasons"]["review:Classification=no"] == 2
    assert 5 <= stages["outliers"]["dropped"] <= 10
    assert stages["exact-duplicates"]["dropped"] == 2
    assert stages["near-duplicates"]["dropped"] == 1
    styles = ("formal", "casual", "general", "typos")
    originals = stages["augment-formal"]["rows_in"]
    assert [stages[f"augment-{style}"]["created"] for style in styles] == [originals] * 4
    assert stages["accept-paraphrases"]["rows_in"] == 5 * originals
    exports = {path.name for path in (run / "exports").iterdir()}
    assert {
        "fitb_rephrased.csv",
        "converted_mcq.csv",
        "cleaned_qa.csv",
        "SOAP_QA.csv",
        "discarded_rows.csv",
        "exact_duplicate_qa_pairs.csv",
        "same_question_diff_answers.csv",
        "same_answer_diff_questions.csv",
        "near_duplicates.csv",
        "deduplication_rephrasing.csv",
        "augmented_qa.csv",
        "dataset.csv",
    } <= exports
    with (run / "exports/dataset.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == stages["accept-paraphrases"]["kept"]
    assert not any("____" in row["question"] for row in rows)
    assert "<html" in (run / "report.html").read_text()

    some = next(r for r in rows if r["original_question"].startswith("The capital of Australia"))
    traced = command("trace", run, some["row_id"])
    assert traced.code == 0, traced.text
    assert "fill-in-blank" in traced.out
    assert "____" in traced.out
