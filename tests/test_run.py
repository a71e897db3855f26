"""A run directory as a Python object."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from support.made_run import TEXTS, MadeRun, made_run
from support.made_trained_run import made_trained_run
from support.tiny_models import tiny_model, word_tokenizer

import ray_pipeline
from ray_pipeline import BudgetExhausted, Run, RunError, UserError
from ray_pipeline.models.text import TextConfig
from ray_pipeline.train.store import put_model


@pytest.fixture
def made(tmp_path: Path) -> MadeRun:
    return made_run(str(tmp_path / "made"))


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=os.environ
    )


def test_importing_the_package_imports_nothing_else() -> None:
    code = (
        "import sys; before = set(sys.modules); import ray_pipeline\n"
        "assert {'Run', 'Pipeline', 'UserError'} <= set(dir(ray_pipeline))\n"
        "new = {m for m in set(sys.modules) - before if not m.startswith('ray_pipeline')}\n"
        "heavy = new & {'ray', 'pyarrow', 'pydantic', 'numpy', 'torch', 'typer'}\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_reading_a_run_imports_no_ray(made: MadeRun) -> None:
    code = (
        "import sys; from ray_pipeline import Run\n"
        f"run = Run({made.storage.root!r})\n"
        "run.rows('ask').to_pandas(), run.report(), run.metrics, run.models\n"
        "heavy = set(sys.modules) & {'ray', 'torch', 'ray_pipeline.stages'}\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_the_package_has_only_the_names_it_says() -> None:
    assert set(ray_pipeline.__all__) <= set(dir(ray_pipeline))
    with pytest.raises(AttributeError, match="no attribute 'Ran'"):
        _ = ray_pipeline.Ran
    with pytest.raises(ImportError):
        from ray_pipeline import Ran  # noqa: F401


def test_says_how_the_run_ended_and_what_its_stages_did(made: MadeRun) -> None:
    run = Run(made.storage.root)
    assert run.uri == made.storage.root and run.status == "succeeded"
    assert repr(run) == f"Run('{run.uri}', succeeded)"
    assert run.stages == ["source", "tidy", "ask", "augment"]
    assert run.ledger == made.ledger
    assert run.account("tidy").reasons == {"tidy:spam": 2}
    assert run.config["seed"] == 7
    assert run.metrics == {} and run.models == []
    with pytest.raises(UserError, match="did you mean 'tidy'"):
        run.account("tdy")


def test_a_folder_may_be_a_path(made: MadeRun) -> None:
    assert Run(Path(made.storage.root)).status == "succeeded"


def test_a_folder_without_a_run_is_refused(made: MadeRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a run directory.*did you mean 'made'"):
        Run(str(tmp_path / "mad"))


def test_rows_are_those_kept_unless_others_are_asked_for(made: MadeRun) -> None:
    run = Run(made.storage.root)
    assert run.rows("tidy").to_arrow().num_rows == len(TEXTS) - 2
    assert run.rows("tidy", status=None).to_arrow().num_rows == len(TEXTS)
    dropped = run.rows("tidy", "dropped", reason="tidy:", columns=["text"], limit=1)
    assert dropped.to_arrow().to_pylist() == [{"text": "two spam"}]
    assert all(isinstance(batch, pa.RecordBatch) for batch in run.rows("augment"))


def test_the_rows_kept_add_up_to_the_ledger(made: MadeRun) -> None:
    run = Run(made.storage.root)
    for stage in ("tidy", "ask", "augment"):
        account = run.account(stage)
        for status in ("kept", "dropped", "failed"):
            rows = run.rows(stage, status).to_arrow().num_rows
            assert rows == getattr(account, status), (stage, status)


def test_a_row_is_traced_by_the_beginning_of_its_id(made: MadeRun) -> None:
    life = Run(made.storage.root).trace(made.row_id(0)[:10])
    assert life.row_id == made.row_id(0)
    assert [event.status for event in life.events] == ["kept"] * 3


def test_writes_the_report_and_says_where(made: MadeRun) -> None:
    run = Run(made.storage.root)
    where = run.report()
    assert where == f"{run.uri}/report.html" and "tidy:spam" in Path(where).read_text()


def test_metrics_are_those_of_the_stages_in_the_ledger(tmp_path: Path) -> None:
    made = made_trained_run(str(tmp_path), until="distil")
    (tmp_path / "metrics.json").write_text('{"distil": {"steps": 60}, "evaluate": {"rows": 5}}')
    assert Run(made.storage.root).metrics == {"distil": {"steps": 60}}


def test_a_model_of_the_run_can_be_loaded(made: MadeRun) -> None:
    from transformers import AutoModelForCausalLM

    model = tiny_model().to(torch.float32)
    put_model(made.storage, "student", model, word_tokenizer(), TextConfig())
    run = Run(made.storage.root)
    assert run.models == ["student"]
    loaded = AutoModelForCausalLM.from_pretrained(run.model("student"))
    assert loaded.num_parameters() == model.num_parameters()
    with pytest.raises(UserError, match="no model 'studnt'; did you mean 'student'"):
        run.model("studnt")


@pytest.mark.parametrize(
    ("status", "error"),
    [("failed", RunError), ("interrupted", RunError), ("budget_exhausted", BudgetExhausted)],
)
def test_check_raises_the_runs_own_message(
    made: MadeRun, status: str, error: type[Exception]
) -> None:
    Run(made.storage.root).check()
    made.save(status, "this is why")  # type: ignore[arg-type]
    with pytest.raises(error, match="this is why"):
        Run(made.storage.root).check()


def test_check_refuses_a_run_that_has_not_ended(made: MadeRun) -> None:
    made.save("running")
    with pytest.raises(RunError, match="the run is running"):
        Run(made.storage.root).check()


@pytest.mark.slow
def test_object_storage_is_read_the_same_way(s3: object) -> None:
    made = made_run("s3://bucket/made")
    run = Run("s3://bucket/made")
    assert run.uri == "s3://bucket/made"
    assert run.rows("augment").to_arrow().num_rows == 10
    assert run.trace(made.row_id(4)[:8]).events[-1].status == "kept"
    assert run.report() == "s3://bucket/made/report.html"
