"""A run's models go by several names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny_models import tiny_model, word_tokenizer

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.storage import Storage
from ray_pipeline.models.text import TextConfig
from ray_pipeline.rundir.models import find_model
from ray_pipeline.train.store import put_model


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder with a run that has a student."""
    put_student(str(tmp_path / "run"))
    return tmp_path


def put_student(run: str) -> None:
    model = tiny_model().to(torch.float32)
    put_model(Storage(run), "student", model, word_tokenizer(), TextConfig())


def test_models_go_by_all_their_names(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    folder = str(trained / "run" / "models" / "student")
    for name in ("run:student", "run/models/student", "run/models/student/", folder):
        assert find_model(name) == folder
    assert find_model(f"{trained}/run:student") == folder


def test_a_run_without_models_says_so(tmp_path: Path) -> None:
    (tmp_path / "ledger.json").write_text('{"run": "r", "status": "running", "stages": []}')
    with pytest.raises(UserError, match="has no models yet: run its job"):
        find_model(f"{tmp_path}:student")


def test_a_model_on_object_storage_is_found_by_the_same_names(s3: object) -> None:
    from transformers import AutoTokenizer

    put_student("s3://bucket/run")
    for name in ("s3://bucket/run:student", "s3://bucket/run/models/student"):
        assert AutoTokenizer.from_pretrained(find_model(name)).eos_token == "<eos>"
    with pytest.raises(UserError, match="has no model 'other'"):
        find_model("s3://bucket/run:other")
