"""vLLM's sockets go when their process has ended, and no others do."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ray_pipeline.core.processes import process_identity
from ray_pipeline.models.vllm import quiet
from ray_pipeline.models.vllm_sockets import remove_left_sockets, sockets_folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_sockets_of_a_process_that_was_killed_are_removed_and_others_stay(temporary: Path) -> None:
    mine = sockets_folder()
    assert (
        mine is not None
        and mine.stat().st_mode & 0o777
        and (mine.parent.stat().st_mode & 0o77) == 0
    )
    killed = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    other = mine.parent / "killed"
    other.mkdir()
    (other / "process").write_text(str(process_identity(killed.pid)))
    (other / "socket").touch()
    (mine / "socket").touch()
    remove_left_sockets()
    assert (other / "socket").exists()
    killed.kill()
    killed.wait()
    remove_left_sockets()
    assert not other.exists() and (mine / "socket").exists()


def test_a_folder_that_somebody_else_made_first_is_not_used(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir()
    (temporary / f"ray-pipeline-vllm-{os.getuid()}").symlink_to(elsewhere)
    assert sockets_folder() is None
    assert list(elsewhere.iterdir()) == []
    monkeypatch.delenv("VLLM_RPC_BASE_PATH", raising=False)
    quiet()
    assert "VLLM_RPC_BASE_PATH" not in os.environ


def test_vllm_is_told_of_the_folder_unless_the_user_has_named_one(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_RPC_BASE_PATH", "/mine")
    quiet()
    assert os.environ["VLLM_RPC_BASE_PATH"] == "/mine"
    monkeypatch.delenv("VLLM_RPC_BASE_PATH")
    quiet()
    folder = Path(os.environ["VLLM_RPC_BASE_PATH"])
    assert folder.is_dir() and folder.parent.parent == temporary
    monkeypatch.delenv("VLLM_RPC_BASE_PATH")
