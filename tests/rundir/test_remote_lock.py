"""The lock on object storage: one owner, and one that has lost it writes and spends nothing."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from typing import Any

import orjson
import pytest
from support.s3_conditions import conditions_ignored, make_older

from ray_pipeline.core import conditional
from ray_pipeline.core.conditional import PlainObject, S3Object, guarded_object
from ray_pipeline.core.errors import LockLost, RunError, UserError
from ray_pipeline.core.processes import process_identity
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir import remote_lock as module
from ray_pipeline.rundir.lock import held, run_lock
from ray_pipeline.rundir.remote_lock import remote_lock

OLD = module.ABANDONED_SECONDS + 1


@pytest.fixture
def storage(s3: Any, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Storage:
    # Renewals come when a test asks for them.
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 3600.0)
    monkeypatch.setattr(module, "_TRUST_SECONDS", 0.0)
    monkeypatch.setattr(conditional, "SETTLE_SECONDS", 1.0)
    return Storage(f"s3://bucket/{request.node.name.partition('[')[0]}")


def silent(text: str) -> None:
    pass


def lock_of(storage: Storage) -> module._Lock:
    lock = module._Lock(storage, silent)
    lock.acquire()
    return lock


def age(storage: Storage, seconds: float) -> None:
    make_older(f"{storage.root.removeprefix('s3://bucket/')}/run.lock", seconds)


def holder(storage: Storage) -> str:
    found = orjson.loads(storage.read_bytes("run.lock") or b"{}")
    return str(found.get("id"))


def slow_first_write(
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[threading.Event, threading.Event]:
    """Hold back the first write from here. Set once it is about to be sent; lets it go when set."""
    begun, let_go, put = threading.Event(), threading.Event(), S3Object._put

    def slow(self: S3Object, data: bytes, **condition: str) -> str | None:
        if not begun.is_set():
            begun.set()
            assert let_go.wait(60)
        return put(self, data, **condition)

    monkeypatch.setattr(S3Object, "_put", slow)
    return begun, let_go


def test_a_run_whose_first_write_arrives_late_is_refused(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[BaseException] = []

    def start_late() -> None:
        try:
            lock_of(storage)
        except UserError as error:
            late.append(error)

    begun, let_go = slow_first_write(monkeypatch)
    thread = threading.Thread(target=start_late)
    thread.start()
    assert begun.wait(60)
    first = lock_of(storage)
    let_go.set()
    thread.join()
    assert len(late) == 1 and f"process {first.owner['pid']}" in str(late[0])
    assert holder(storage) == first.owner["id"]


@pytest.mark.parametrize("left", [False, True])
def test_of_runs_that_start_at_once_one_gets_the_directory(storage: Storage, left: bool) -> None:
    if left:  # by a run that was killed
        storage.write_bytes("run.lock", b'{"id": "left"}')
        age(storage, OLD)
    barrier, got, refused = threading.Barrier(8), [], []

    def start() -> None:
        barrier.wait()
        try:
            got.append(lock_of(storage))
        except UserError as error:
            refused.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 7)
    assert holder(storage) == got[0].owner["id"]


def test_a_paused_run_that_was_replaced_writes_nothing_and_keeps_its_hands_off_the_lock(
    storage: Storage,
) -> None:
    paused = lock_of(storage)
    mine = held(storage, paused.owner["id"])
    mine.write_bytes("ledger.json", b"first")
    age(storage, OLD)
    second = lock_of(storage)
    for write in (
        lambda: mine.write_bytes("ledger.json", b"second"),
        lambda: mine.delete("ledger.json"),
        lambda: mine.delete_folder("stages"),
        lambda: mine.writer("exports/x").__enter__(),
        mine.check_held,
        pickle.loads(pickle.dumps(mine)).check_held,
    ):
        with pytest.raises(LockLost, match="does not hold the directory any more, process"):
            write()
    assert storage.read_bytes("ledger.json") == b"first"
    assert paused._renew() is False
    paused.release()
    assert holder(storage) == second.owner["id"]
    second.release()
    assert storage.read_bytes("run.lock") is None
    with pytest.raises(LockLost, match="another run has taken it"):
        mine.check_held()


def test_a_lock_that_could_not_be_renewed_stops_its_run_before_another_may_take_it(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = lock_of(storage)
    mine = held(storage, lock.owner["id"])
    age(storage, module._STOP_SECONDS)
    with pytest.raises(UserError, match="another run holds"):
        lock_of(storage)
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.3)
    with pytest.raises(LockLost, match=r"was not renewed for 2\d s"):
        mine.check_held()
    assert lock._renew()
    mine.check_held()


def test_a_pause_of_the_whole_machine_is_over_with_the_next_renewal(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with remote_lock(storage, silent) as run_id:
        pass
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 1.0)
    with remote_lock(storage, silent) as run_id:
        age(storage, 600)
        held(storage, run_id).write_bytes("x", b"x")
    assert storage.read_bytes("run.lock") is None


def test_a_renewal_whose_reply_was_lost_is_still_ours(storage: Storage) -> None:
    lock = lock_of(storage)
    lock._beats += 1
    lock._object.replace(lock._data(), str(lock._tag))  # and nobody heard of it
    assert lock._renew() and lock._renew()


def test_a_process_of_the_same_name_in_another_container_is_another(storage: Storage) -> None:
    mine = module.owner()
    boot, namespace, pid, ticks = str(mine["process"]).split()
    for process in (f"{boot} 1 {pid} {ticks}", f"other {namespace} {pid} {ticks}", None):
        same_name = {**mine, "id": "other", "process": process, "pid": 999_999}
        storage.write_bytes("run.lock", orjson.dumps(same_name))
        with pytest.raises(UserError, match=r"process 999999 on .* its lock is free 30 s after"):
            lock_of(storage)
    assert holder(storage) == "other"


def test_the_lock_of_a_process_that_has_ended_here_is_taken_over_at_once(storage: Storage) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    left = {**module.owner(), "id": "left", "process": process_identity(process.pid)}
    storage.write_bytes("run.lock", orjson.dumps(left))
    with pytest.raises(UserError):
        lock_of(storage)
    process.kill()
    process.wait()
    lock_of(storage)
    assert holder(storage) != "left"


def test_a_server_that_ignores_conditions_is_found_out_and_said_to_be_one(
    s3: Any, storage: Storage
) -> None:
    said: list[str] = []
    with conditions_ignored(s3), remote_lock(storage, said.append) as run_id:
        assert holder(storage) == run_id
        with pytest.raises(UserError, match="another run holds"):
            lock_of(storage)
        other = held(storage, "other")
        with pytest.raises(LockLost):
            other.write_bytes("x", b"x")
    assert [line for line in said if "has no conditional writes" in line]
    assert storage.read_bytes("run.lock") is None


def test_on_storage_without_conditions_the_last_of_two_writers_wins_alone(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "guarded_object", PlainObject)
    got, refused, both = [], [], threading.Barrier(2)

    def create(self: PlainObject, data: bytes) -> str | None:
        both.wait(60)  # both have seen that there is no lock, and both write
        return self._write_and_settle(data)

    def start() -> None:
        try:
            got.append(lock_of(storage))
        except UserError as error:
            refused.append(error)

    monkeypatch.setattr(PlainObject, "create", create)
    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 1)
    assert holder(storage) == got[0].owner["id"]


def test_an_abandoned_lock_without_a_clock_of_the_storage_is_watched_first(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "guarded_object", PlainObject)
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.5)
    monkeypatch.setattr(module, "ABANDONED_SECONDS", 1.0)
    storage.write_bytes("run.lock", b'{"id": "left"}')
    with remote_lock(storage, silent) as run_id:
        assert holder(storage) == run_id
        with pytest.raises(UserError, match="another run holds"):
            lock_of(storage)  # it is renewed while it is watched
        assert holder(storage) == run_id


def test_storage_that_cannot_be_reached_is_not_a_lock_that_was_lost(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = held(Storage("s3://no-such-bucket/run"), "x")
    with pytest.raises(RunError, match="cannot read s3://no-such-bucket/run") as error:
        mine.check_held()
    assert not isinstance(error.value, LockLost)
    assert isinstance(guarded_object(storage, "run.lock"), S3Object)
    with pytest.raises(RunError, match="no-such-bucket"), run_lock(mine):
        pass
