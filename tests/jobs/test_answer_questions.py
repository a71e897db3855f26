"""The `answer_questions` job: a trained model through the engines that any other model has."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from support.command import REPOSITORY, Command
from support.taught_model import LESSONS, teach

from ray_pipeline.pipeline import load_job


def test_a_model_of_the_plain_style_answers_as_it_was_taught(
    command: Command, tmp_path: Path
) -> None:
    model = teach(tmp_path / "trained", chat=False)
    questions = [*LESSONS, "  "]
    source = tmp_path / "questions.jsonl"
    source.write_text("".join(json.dumps({"question": one}) + "\n" for one in questions))
    llm = {"engine": "transformers", "model": str(model), "dtype": "float32", "max_tokens": 8}
    config = {
        "name": "answer-questions",
        "run_dir": str(tmp_path / "run"),
        "source": {"path": str(source)},
        "llms": {"student": llm | {"temperature": 0.0, "reasks": 0}},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))

    done = command("run", path)
    assert done.code == 0, done.text
    lines = (tmp_path / "run" / "exports" / "dataset.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert {row["question"]: row["model_answer"] for row in rows} == LESSONS
    ledger = json.loads((tmp_path / "run" / "ledger.json").read_text())
    assert ledger["stages"][-1]["reasons"] == {"answer:no_question": 1}


def test_the_shipped_configuration_is_one_of_its_job() -> None:
    job = load_job(REPOSITORY / "configs" / "answer_questions" / "local.yaml")
    assert [stage.name for stage in job.stages] == ["answer"]
    assert job.config.llms["student"].temperature == 0
