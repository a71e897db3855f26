"""Runs that an earlier version of this code made are reused, stage by stage and part by part.

`tests/support/old_runs` holds archives of two small run directories with their sources and
configurations, as the version before the packages `core` and `rundir` wrote them: all kinds of
stage are in them. The jobs have other stages since; those that they had are beside the archives.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from support.command import TESTS, Command

OLD_RUNS = TESTS / "support" / "old_runs"
#: The job, the last stage that its run reached, and how many entries its ledger has.
RUNS = [("qa_distillation", "split", 24), ("quality_tradeoff", "write-subsets", 13)]


def unpack(job: str, folder: Path) -> list[dict[str, Any]]:
    """Put an old run with its source and configuration in a folder; its ledger's entries."""
    with tarfile.open(OLD_RUNS / f"{job}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    config = json.loads((folder / "config.json").read_text())
    config["job"] = str(OLD_RUNS / f"{job}.py")
    (folder / "config.json").write_text(json.dumps(config))
    return stages(folder)


def stages(folder: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((folder / "run/ledger.json").read_text())["stages"]
    return entries


def durable(run: Path) -> dict[str, tuple[int, bytes]]:
    """Everything that was paid for: parts, decisions, artifacts, responses; when and what."""
    folders = ("stages", "responses")
    files = [path for folder in folders for path in (run / folder).rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.mark.parametrize(("job", "until", "entries"), RUNS)
def test_an_old_run_is_reused_whole(job: str, until: str, entries: int, tmp_path: Path) -> None:
    old = unpack(job, tmp_path)
    before = durable(tmp_path / "run")
    # Nothing is at these addresses: a run that had work to do would fail.
    environment = {"RAY_ADDRESS": "127.0.0.1:1", "KEY": "dummy"}
    command = Command(None, tmp_path)

    planned = command("plan", "config.json", "--until", until, **environment)
    assert planned.code == 0, planned.text
    names = [stage["name"] for stage in old]
    lines = [line.split() for line in planned.out.splitlines()]
    actions = {words[0]: words for words in lines if words and words[0] in names}
    assert set(actions) == set(names)
    assert all("reused" in words for words in actions.values()), planned.out

    done = command("run", "config.json", "--until", until, **environment)
    assert done.code == 0, done.text
    assert len(old) == entries
    for now, then in zip(stages(tmp_path), old, strict=True):
        assert now["reused"], now["name"]
        assert {**now, "reused": then["reused"]} == then
    assert durable(tmp_path / "run") == before


@pytest.mark.slow
def test_the_parts_of_an_old_run_stand_for_themselves(command: Command, tmp_path: Path) -> None:
    """Without the files that say that a segment is complete, every unit is looked at."""
    unpack("qa_distillation", tmp_path)
    run = tmp_path / "run"
    for path in run.glob("stages/*/done.json"):
        path.unlink()
    before = durable(run)
    # No server is where the configuration says: a request would fail the run.
    done = command("run", "config.json", "--until", "split", KEY="dummy")
    assert done.code == 0, done.text
    assert all(stage["reused"] for stage in stages(tmp_path))
    assert {path: was for path, was in durable(run).items() if path in before} == before
