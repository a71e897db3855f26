"""Where a pipeline finds what a configuration names."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from support.command import REPOSITORY

from ray_pipeline.core.errors import UserError
from ray_pipeline.engine.prepare import _find_prompt
from ray_pipeline.pipeline import load_job


def prompt_of(folder: Path, name: str) -> Path:
    """The file that a prompt's name stands for in a configuration in this folder."""
    keys = {
        "name": "any",
        "job": str(REPOSITORY / "jobs" / "answer_questions.py"),
        "run_dir": str(folder / "run"),
        "source": {"path": "rows.csv"},
        "stages": {"answer": {"llm": "none"}},
    }
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(keys))
    return _find_prompt(name, load_job(config).prompt_folders, "stages.answer.prompt")


def write(prompt: Path) -> Path:
    prompt.parent.mkdir(parents=True, exist_ok=True)
    prompt.write_text('user: "{{ question }}"\n')
    return prompt


def test_a_prompt_of_the_repository_is_found_by_its_bare_name(tmp_path: Path) -> None:
    prompts = REPOSITORY / "configs" / "prompts"
    assert prompt_of(tmp_path, "answer") == prompts / "answer_questions" / "answer.yaml"


def test_a_prompt_of_another_job_is_found_by_its_bare_name(tmp_path: Path) -> None:
    prompts = REPOSITORY / "configs" / "prompts"
    assert prompt_of(tmp_path, "rephrase") == prompts / "qa_distillation" / "rephrase.yaml"


def test_the_folder_of_the_job_comes_before_the_shared_one(tmp_path: Path) -> None:
    shared = write(tmp_path / "prompts" / "answer.yaml")
    assert prompt_of(tmp_path, "answer") == shared
    own = write(tmp_path / "prompts" / "answer_questions" / "answer.yaml")
    assert prompt_of(tmp_path, "answer") == own


def test_a_prompt_beside_the_configuration_comes_before_that_of_another_job(
    tmp_path: Path,
) -> None:
    write(tmp_path / "prompts" / "a_job" / "answer.yaml")
    own = write(tmp_path / "prompts" / "answer.yaml")
    assert prompt_of(tmp_path, "answer") == own


def test_an_unknown_prompt_names_those_of_all_jobs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"did you mean 'rephrase'\?.*judge_quality"):
        prompt_of(tmp_path, "rephrased")
