"""Locks that allow one run at a time in a run directory, and no workers of a killed one.

On a local file system these are two kernel locks, which the kernel releases however a process
dies: the driver holds ``run.lock`` exclusively, and a worker shares ``workers.lock`` while it
writes. A new driver waits for those locks and then puts its id into ``run.lock``; a worker of an
earlier run that would start to write finds that id and stops. On object storage the driver renews
a heartbeat, and a lock whose heartbeat is old counts as abandoned.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import IO, Any

import orjson

from ray_pipeline.core.errors import RunError, Stopping, UserError
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.layout import RUN_LOCK, WORKERS_LOCK

#: Object storage: seconds between heartbeats, and the age at which a lock is abandoned.
_HEARTBEAT = 5.0
_ABANDONED_AFTER = 30.0
#: Local file systems: seconds that a run waits for workers of an earlier one.
_WORKERS_SECONDS = 60.0


@contextlib.contextmanager
def run_lock(storage: Storage, say: Callable[[str], None] = lambda _: None) -> Iterator[str]:
    """Hold the run directory's lock for the block; yields the run's id, for its workers.

    Args:
        storage: the run directory.
        say: called with a message when the run has to wait for workers of an earlier one.

    Raises:
        UserError: another run holds it; the message names that run.
    """
    holder = _local_lock(storage, say) if storage.is_local else _heartbeat_lock(storage)
    with holder as run_id:
        yield run_id


def _owner() -> dict[str, Any]:
    return {
        "id": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "heartbeat": time.time(),
    }


def _refuse(storage: Storage, owner: dict[str, Any]) -> UserError:
    return UserError(
        f"{storage.uri()}: another run holds this directory: process {owner.get('pid', '?')} on "
        f"{owner.get('host', '?')}, started {owner.get('started', '?')}. Wait for it, stop it, or "
        "give this run another directory (--run-dir)."
    )


@contextlib.contextmanager
def _local_lock(storage: Storage, say: Callable[[str], None]) -> Iterator[str]:
    with _lock_file(storage) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise _refuse(storage, orjson.loads(file.read() or b"{}")) from None
        owner = _owner()
        with _no_worker_writes(storage, say):
            file.truncate(0)
            file.write(orjson.dumps(owner))
            file.flush()
        yield owner["id"]


def _lock_file(storage: Storage) -> IO[bytes]:
    path = storage.local_path(RUN_LOCK)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+b")
    except OSError as error:
        raise UserError(
            f"{storage.uri()}: cannot be used as a run directory: {error}. Fix that, or name "
            "another one (--run-dir)"
        ) from None


@contextlib.contextmanager
def _no_worker_writes(storage: Storage, say: Callable[[str], None]) -> Iterator[None]:
    """Wait until no worker of an earlier run writes; none begins to within the block."""
    with storage.local_path(WORKERS_LOCK).open("a+b") as file:
        deadline = time.monotonic() + _WORKERS_SECONDS
        has_reported = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{storage.uri()}: workers of an earlier run are still writing after a "
                        "minute; stop them (ray stop) or give this run another directory"
                    ) from None
                if not has_reported:
                    say("waiting for the workers of an earlier run to end")
                    has_reported = True
                time.sleep(0.1)
        yield


@contextlib.contextmanager
def working(storage: Storage, run_id: str) -> Iterator[None]:
    """Share the workers' lock of a run directory for the block, in which a worker writes there.

    Args:
        storage: the run directory.
        run_id: id of the run that the worker works for, from `run_lock`; empty: not checked.

    Raises:
        Stopping: another run holds the directory by now. Ray may start a task after its run has
            ended: it must not write any more.
        RunError: the lock cannot be taken.
    """
    if not storage.is_local:
        yield
        return
    path = storage.local_path(WORKERS_LOCK)
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("a+b"))
            fcntl.flock(file, fcntl.LOCK_SH)
            is_ours = not run_id or _owner_id(storage) == run_id
        except OSError as error:
            raise RunError(f"{path}: cannot be locked: {error}") from error
        if not is_ours:
            raise Stopping
        yield


def _owner_id(storage: Storage) -> str | None:
    owner: dict[str, Any] = orjson.loads(storage.local_path(RUN_LOCK).read_bytes() or b"{}")
    return owner.get("id")


@contextlib.contextmanager
def _heartbeat_lock(storage: Storage) -> Iterator[str]:
    mine = _owner()
    other = orjson.loads(storage.read_bytes(RUN_LOCK) or b"{}")
    if other and not _abandoned(other):
        raise _refuse(storage, other)
    storage.write_bytes(RUN_LOCK, orjson.dumps(mine))
    # Two runs that start at the same moment both write: the last writer wins, the other gives up.
    time.sleep(0.5)
    current = orjson.loads(storage.read_bytes(RUN_LOCK) or b"{}")
    if current.get("id") != mine["id"]:
        raise _refuse(storage, current)

    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(_HEARTBEAT):
            # A failed heartbeat is tried again; the run's own writes report a lost bucket.
            with contextlib.suppress(Exception):
                storage.write_bytes(RUN_LOCK, orjson.dumps({**mine, "heartbeat": time.time()}))

    thread = threading.Thread(target=beat, daemon=True, name="run-lock-heartbeat")
    thread.start()
    try:
        yield mine["id"]
    finally:
        stop.set()
        thread.join()
        storage.delete(RUN_LOCK)


def _abandoned(owner: dict[str, Any]) -> bool:
    if owner.get("host") == socket.gethostname() and not _alive(int(owner.get("pid", 0))):
        return True
    return time.time() - float(owner.get("heartbeat", 0)) > _ABANDONED_AFTER


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
