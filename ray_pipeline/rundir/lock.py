"""Locks that allow one run at a time in a run directory, and no workers of a killed one.

On a local file system these are two kernel locks, which the kernel releases however a process
dies: the driver holds ``run.lock`` exclusively, and a worker shares ``workers.lock`` while it
writes. A new driver waits for those locks and then puts its id into ``run.lock``; a worker of an
earlier run that would start to write finds that id and stops. A process that is paused keeps them.
On object storage the lock is an object that the driver renews: see `remote_lock`.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from typing import IO, Any

import orjson

from ray_pipeline.core.errors import RunError, Stopping, UserError
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.layout import RESPONSES, RUN_LOCK, WORKERS_LOCK
from ray_pipeline.rundir.remote_lock import Held, owner, refusal, remote_lock

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
    holder = (_local_lock if storage.is_local else remote_lock)(storage, say)
    with holder as run_id:
        yield run_id


@contextlib.contextmanager
def _local_lock(storage: Storage, say: Callable[[str], None]) -> Iterator[str]:
    with _lock_file(storage) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise refusal(storage, orjson.loads(file.read() or b"{}")) from None
        mine = owner()
        with _no_worker_writes(storage, say), _usable(storage):
            file.truncate(0)
            file.write(orjson.dumps(mine))
        yield mine["id"]


@contextlib.contextmanager
def _usable(storage: Storage) -> Iterator[None]:
    """Turn an OSError of the block into the message that the run directory cannot be used."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{storage.uri()}: cannot be used as a run directory: {error}. Fix that, or name "
            "another one (--run-dir)"
        ) from None


def _lock_file(storage: Storage) -> IO[bytes]:
    path = storage.local_path(RUN_LOCK)
    with _usable(storage):
        storage.make_private()
        storage.make_private(RESPONSES)
        # Without a buffer: what a full disk refuses must not be written again by closing.
        return path.open("a+b", buffering=0)


@contextlib.contextmanager
def _no_worker_writes(storage: Storage, say: Callable[[str], None]) -> Iterator[None]:
    """Wait until no worker of an earlier run writes; none begins to within the block."""
    with _usable(storage):
        lock = storage.local_path(WORKERS_LOCK).open("a+b")
    with lock as file:
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


def held(storage: Storage, run_id: str) -> Storage:
    """The run directory as the run writes it: on object storage, each write checks the lock.

    On a local file system the kernel keeps the lock of a run for as long as it lives.
    """
    return storage if storage.is_local else storage.held_by(Held(storage.root, run_id))


@contextlib.contextmanager
def working(storage: Storage, run_id: str) -> Iterator[None]:
    """Share the workers' lock of a run directory for the block, in which a worker writes there.

    Args:
        storage: the run directory.
        run_id: id of the run that the worker works for, from `run_lock`; empty: not checked.

    Raises:
        Stopping: another run holds the directory by now. Ray may start a task after its run has
            ended: it must not write any more.
        RunError: the lock cannot be taken, or on object storage, another run holds it.
    """
    if not storage.is_local:
        storage.check_held()
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
