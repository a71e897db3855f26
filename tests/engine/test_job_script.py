"""A job script is code: one that came with a run directory runs only if the user names it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from support.command import TESTS, Command, InProcess
from support.toy_run import make_toy

SENT = """
from pathlib import Path
Path({marker!r}).write_text("it ran")
from toy import Shout, Whisper
from ray_pipeline.pipeline import Pipeline
PIPELINE = Pipeline("toy-maps", [Shout(), Whisper()])
"""


class Sent:
    """A run directory that somebody sent, and a job script outside it that leaves a mark."""

    def __init__(self, folder: Path) -> None:
        self.marker = folder / "ran"
        self.script = folder / "elsewhere" / "job.py"
        self.script.parent.mkdir()
        self.script.write_text(SENT.format(marker=str(self.marker)))
        self.toy = make_toy(folder, ["a"], job=str(self.script))
        self.run = self.toy.run_dir
        self.run.mkdir()
        shutil.copy(self.toy.config_file, self.run / "config.yaml")
        ledger = {"run": str(self.run), "status": "failed", "stages": []}
        (self.run / "ledger.json").write_text(json.dumps(ledger))

    def set_job(self, file: Path, job: Path | str) -> None:
        config = yaml.safe_load(file.read_text())
        file.write_text(yaml.safe_dump({**config, "job": str(job)}))


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.syspath_prepend(str(TESTS / "support" / "jobs"))
    return InProcess(tmp_path)


def test_a_script_that_a_run_directory_names_runs_only_if_the_user_names_it(
    alone: Command, tmp_path: Path
) -> None:
    sent = Sent(tmp_path)
    config = sent.run / "config.yaml"
    for words in (["retry", sent.run], ["plan", config], ["run", config]):
        done = alone(*words)
        assert done.code == 2, done.text
        assert "the configuration is that of a run directory, and running a job" in done.err
        assert done.err.rstrip().endswith(f"name it yourself: --job {sent.script}")
        assert not sent.marker.exists()
    for asked in (["--job", sent.script], ["--set", f"job={sent.script}"]):
        done = alone("plan", config, *asked)
        assert done.code == 0, done.text
        assert sent.marker.exists()
        sent.marker.unlink()


@pytest.mark.parametrize("way", ["path", "link", "folder of jobs"])
def test_a_script_in_a_run_directory_runs_only_if_the_user_names_it(
    alone: Command, tmp_path: Path, way: str
) -> None:
    sent = Sent(tmp_path)
    inside = sent.run / "jobs" / "job.py"
    inside.parent.mkdir()
    shutil.move(sent.script, inside)
    named: Path | str = inside
    if way == "link":
        named = tmp_path / "link.py"
        named.symlink_to(inside)
    elif way == "folder of jobs":  # of the current folder
        named, alone.folder = "job", sent.run
    sent.set_job(sent.toy.config_file, named)
    done = alone("plan", sent.toy.config_file)
    assert done.code == 2, done.text
    assert f"the job script lies in the run directory {sent.run}" in done.err
    assert not sent.marker.exists()
    done = alone("plan", sent.toy.config_file, "--job", inside)
    assert done.code == 0, done.text
    assert sent.marker.exists()


def test_a_script_in_the_future_run_directory_is_refused_too(
    alone: Command, tmp_path: Path
) -> None:
    sent = Sent(tmp_path)
    shutil.move(sent.script, inside := sent.run / "job.py")
    (sent.run / "ledger.json").unlink()
    sent.set_job(sent.toy.config_file, inside)
    assert alone("plan", sent.toy.config_file).code == 2
    assert not sent.marker.exists()


def test_a_configuration_of_the_user_names_any_script(alone: Command, tmp_path: Path) -> None:
    sent = Sent(tmp_path)
    done = alone("plan", sent.toy.config_file)
    assert done.code == 0, done.text
    assert sent.marker.exists()


@pytest.mark.parametrize("job", ["x" * 300, "../" * 200 + "x.py", "a\0b"])
def test_a_script_that_cannot_be_a_file_is_one_message(
    alone: Command, tmp_path: Path, job: str
) -> None:
    toy = make_toy(tmp_path, ["a"], job=job)
    done = alone("plan", toy.config_file)
    assert done.code == 2, done.text
    assert "no job script" in done.err and "Traceback" not in done.text
