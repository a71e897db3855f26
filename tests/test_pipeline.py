"""Where a pipeline finds what a configuration names, and running one from Python."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.command import REPOSITORY, TESTS
from support.mock_openai import MockServer
from support.toy_run import Toy, make_toy

from ray_pipeline import BudgetExhausted, Pipeline, Run, RunError, UserError
from ray_pipeline.engine import run as engine_run
from ray_pipeline.engine.prepare import _find_prompt
from ray_pipeline.engine.progress import Tally
from ray_pipeline.pipeline import load_job
from ray_pipeline.rundir.ledger import Ledger


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


TEXTS = ["one", "two drop", "three", "four twin"]


@pytest.fixture(autouse=True)
def jobs_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts of toy jobs import one another, as workers do by their PYTHONPATH."""
    monkeypatch.syspath_prepend(str(TESTS / "support" / "jobs"))


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return make_toy(tmp_path, TEXTS)


def config_of(toy: Toy) -> dict[str, Any]:
    return yaml.safe_load(toy.config_file.read_text())


def test_a_configuration_may_be_a_mapping(toy: Toy, tmp_path: Path) -> None:
    raw = config_of(toy)
    job = load_job(raw)
    assert job.config.model_dump() == load_job(toy.config_file).config.model_dump()
    assert raw == config_of(toy)
    with pytest.raises(UserError, match="configuration: unknown key 'sorce'"):
        load_job({**raw, "sorce": {}})


def test_a_run_that_began_with_a_decimal_count_continues_with_it(toy: Toy) -> None:
    toy.change(budget={"max_failed_rows": 1.0})
    with pytest.raises(UserError, match="could be a count or a share"):
        load_job(toy.config_file)
    toy.run_dir.mkdir()
    stored = toy.run_dir / "config.yaml"
    stored.write_text("budget: {max_failed_rows: 1.0}\n")
    assert load_job(toy.config_file).config.budget.max_failed_rows == 1
    stored.write_text("budget: {max_failed_rows: 2.0}\n")
    with pytest.raises(UserError, match="could be a count or a share"):
        load_job(toy.config_file)


def test_overrides_are_a_mapping_or_assignments(toy: Toy) -> None:
    raw = config_of(toy)
    for overrides in (
        {"stages.shout.suffix": "?", "budget.max_failed_rows": 3},
        ["stages.shout.suffix='?'", "budget.max_failed_rows=3"],
    ):
        job = load_job(raw, overrides, run_dir="runs/other", address="10.0.0.1:6379")
        assert job.config.budget.max_failed_rows == 3
        assert job.config.stages.stage_shout.suffix == "?"
        assert job.config.run_dir == str(Path.cwd() / "runs/other")
        assert job.config.address == "10.0.0.1:6379"
    assert raw == config_of(toy)
    with pytest.raises(UserError, match=r"override 'name\.first': name is a value, not a section"):
        load_job(raw, {"name.first": 1})


def test_the_pipeline_of_a_configuration_is_found(toy: Toy) -> None:
    for config in (toy.config_file, str(toy.config_file), config_of(toy)):
        assert Pipeline.find(config).name == "toy-maps"
    with pytest.raises(UserError, match="no job script 'tuy'"):
        Pipeline.find({"job": "tuy"})


class Engine:
    """Takes the engine's place: the run ends as it is told to."""

    def __init__(self) -> None:
        self.status: Any = "succeeded"
        self.retries: list[bool] = []

    def run(self, job: Any, display: Any, *, until: Any = None, retry: bool = False) -> Ledger:
        self.retries.append(retry)
        display.say("going on")
        display.update(Tally([], 0), [])
        ledger = Ledger(job.config.run_dir, self.status, "this is why")
        ledger.save(engine_run.Storage(job.config.run_dir))
        return ledger


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    engine = Engine()
    monkeypatch.setattr("ray_pipeline.pipeline.start_job", engine.run)
    return engine


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("failed", RunError),
        ("budget_exhausted", BudgetExhausted),
        ("interrupted", KeyboardInterrupt),
    ],
)
def test_a_run_that_does_not_succeed_raises(
    engine: Engine, toy: Toy, status: str, error: type[BaseException]
) -> None:
    pipeline = Pipeline.find(toy.config_file)
    assert pipeline.run(toy.config_file).status == "succeeded"
    engine.status = status
    with pytest.raises(error, match="this is why"):
        pipeline.run(toy.config_file)
    assert pipeline.run(toy.config_file, check=False).status == status


def test_wrong_input_raises_before_anything_runs(engine: Engine, toy: Toy) -> None:
    pipeline = Pipeline.find(toy.config_file)
    with pytest.raises(UserError, match=r"unknown key 'stages\.shuot'"):
        pipeline.run(toy.config_file, {"stages.shuot.suffix": "?"})
    with pytest.raises(UserError, match=r"texts\.csv: there is no such file"):
        pipeline.plan(toy.config_file, {"source.path": str(toy.source.with_suffix(".csv"))})
    assert engine.retries == [] and not toy.run_dir.exists()


def test_a_plan_says_what_would_run_and_writes_nothing(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    plans = Pipeline.find(toy.config_file).plan(toy.config_file, until="shout")
    assert [(plan.name, plan.action, plan.rows_in) for plan in plans] == [
        ("source", "run", 4),
        ("shout", "run", 4),
    ]
    assert not toy.run_dir.exists()


class Progress:
    """A display that remembers what it was shown."""

    def __init__(self) -> None:
        self.news: list[str] = []
        self.updates = 0

    def say(self, text: str) -> None:
        self.news.append(text)

    def update(self, tally: Tally, starting: Sequence[str]) -> None:
        self.updates += 1


def toy_ask(folder: Path, server: MockServer, **keys: Any) -> Toy:
    llm = {"engine": "openai", "model": "m", "base_url": server.base_url, "api_keys_env": []}
    return make_toy(
        folder,
        ["one", "two", "three bad-answer"],
        pipeline="toy_ask",
        llms={"mock": {**llm, "reasks": 0}},
        stages={"ask": {"llm": "mock", "prompt": "ask"}},
        **keys,
    )


def test_a_run_in_this_process_is_continued_reused_and_retried(
    ray_cluster: str, tmp_path: Path
) -> None:
    handlers = list(logging.getLogger("ray_pipeline").handlers)
    progress = Progress()
    with MockServer() as server:
        toy = toy_ask(tmp_path, server, budget={"max_failed_rows": 0})
        pipeline = Pipeline.find(toy.config_file)
        with pytest.raises(RunError, match="1 rows failed, 0 are allowed"):
            pipeline.run(toy.config_file, display=progress)
        run = pipeline.run(toy.config_file, {"budget.max_failed_rows": 1})
        assert isinstance(run, Run) and run.status == "succeeded"
        asked = server.stats()["arrivals"]
        assert progress.updates and asked == 3
        assert run.rows("whisper", columns=["answer"]).to_arrow().num_rows == 2
        assert run.rows("ask", "failed", reason="llm:unusable").to_arrow().num_rows == 1

        again = pipeline.run(toy.config_file, {"budget.max_failed_rows": 1})
        assert all(entry.reused for entry in again.ledger.entries)
        assert {plan.action for plan in pipeline.plan(toy.config_file)} == {"reused"}
        assert server.stats()["arrivals"] == asked

        assert pipeline.retry(run.uri).account("ask").failed == 1
        assert server.stats()["arrivals"] == asked + 1
    assert logging.getLogger("ray_pipeline").handlers == handlers
