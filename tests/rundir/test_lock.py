"""The lock of a run directory: workers that write are waited for, and others cannot begin to."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import REPOSITORY, InProcess
from support.toy_run import make_toy

from ray_pipeline.core.errors import RunError, Stopping, UserError
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir import lock
from ray_pipeline.rundir.lock import run_lock, working


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def run_of(storage: Storage) -> str:
    """The id of a run that has ended, as when it was killed."""
    with run_lock(storage) as run_id:
        return run_id


def test_a_worker_that_writes_is_waited_for(storage: Storage) -> None:
    said: list[str] = []
    with contextlib.ExitStack() as worker:
        worker.enter_context(working(storage, run_of(storage)))

        def end_worker(text: str) -> None:
            said.append(text)
            worker.close()

        with run_lock(storage, end_worker):
            assert said == ["waiting for the workers of an earlier run to end"]
    with run_lock(storage, said.append):
        assert len(said) == 1


def test_a_worker_that_does_not_end_is_reported(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_WORKERS_SECONDS", 0.2)
    with (
        working(storage, run_of(storage)),
        pytest.raises(UserError, match="still writing"),
        run_lock(storage),
    ):
        pass


def test_an_idle_worker_is_not_waited_for_and_cannot_write_for_its_run_again(
    storage: Storage,
) -> None:
    before = run_of(storage)
    with working(storage, before):
        pass
    said: list[str] = []
    with run_lock(storage, said.append) as now:
        assert not said
        with pytest.raises(Stopping), working(storage, before):
            raise AssertionError("it writes for a run that has ended")
        with working(storage, now), working(storage, now):
            pass


def test_a_worker_holds_the_directory_that_it_writes_to_alone(
    storage: Storage, tmp_path: Path
) -> None:
    other = Storage(str(tmp_path / "other"))
    said: list[str] = []
    with working(other, run_of(other)), run_lock(storage, said.append):
        assert not said


def test_a_directory_that_is_gone_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(RunError, match=r"gone/workers.lock: cannot be locked"),
        working(Storage(str(tmp_path / "gone")), "x"),
    ):
        pass


HOLD = """
import sys
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.lock import run_lock
with run_lock(Storage(sys.argv[1])):
    print("held", flush=True)
    input()
"""


def test_a_paused_run_keeps_its_local_directory_and_a_dead_one_does_not(storage: Storage) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, storage.root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    try:
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(UserError, match=f"process {process.pid} on"), run_lock(storage):
            pass
    finally:
        process.kill()
        process.communicate()
    with run_lock(storage):
        pass


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_run_directory_is_the_users_own(tmp_path: Path) -> None:
    run_of(Storage(str(tmp_path / "runs" / "new")))
    assert mode(tmp_path / "runs/new") == mode(tmp_path / "runs/new/responses") == 0o700
    assert mode(tmp_path / "runs") & 0o055  # what is not the run's is made as usual
    (tmp_path / "shared").mkdir(mode=0o755)
    run_of(Storage(str(tmp_path / "shared")))
    assert mode(tmp_path / "shared") == 0o755  # whoever made it decides
    assert mode(tmp_path / "shared/responses") == 0o700


def test_a_run_directory_is_the_users_own_from_the_first_file_on(tmp_path: Path) -> None:
    toy = make_toy(tmp_path, ["a"], source={"path": str(tmp_path / "nothing.csv")})
    assert InProcess(tmp_path)("run", toy.config_file).code == 2
    assert mode(toy.run_dir) == 0o700
