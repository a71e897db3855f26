"""Locks that allow one run at a time in a run directory, and no workers of a killed one.

On a local file system these are two kernel locks, which the kernel releases however a process
dies: the driver holds ``run.lock`` exclusively, and each worker shares ``workers.lock``, so that a
new driver can wait until the workers of a killed one are gone. On object storage the driver renews
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
from pathlib import Path
from typing import IO, Any

import orjson

from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.layout import RUN_LOCK, WORKERS_LOCK

#: Object storage: seconds between heartbeats, and the age at which a lock is abandoned.
_HEARTBEAT = 5.0
_ABANDONED_AFTER = 30.0

#: The workers' locks that this process shares, by run directory.
_held: dict[str, IO[bytes]] = {}


@contextlib.contextmanager
def run_lock(storage: Storage, say: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Hold the run directory's lock for the block.

    Args:
        storage: the run directory.
        say: called with a message when the run has to wait for the workers of a killed one.

    Raises:
        UserError: another run holds it; the message names that run.
    """
    holder = _local_lock(storage, say) if storage.is_local else _heartbeat_lock(storage)
    with holder:
        yield


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
def _local_lock(storage: Storage, say: Callable[[str], None]) -> Iterator[None]:
    with _lock_file(storage) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise _refuse(storage, orjson.loads(file.read() or b"{}")) from None
        _wait_for_workers(storage, say)
        with _usable(storage):
            file.truncate(0)
            file.write(orjson.dumps(_owner()))
        yield


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
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without a buffer: what a full disk refuses must not be written again by closing.
        return path.open("a+b", buffering=0)


def _wait_for_workers(storage: Storage, say: Callable[[str], None]) -> None:
    with _usable(storage):
        lock = storage.local_path(WORKERS_LOCK).open("a+b")
    with lock as file:
        deadline = time.monotonic() + 60
        has_reported = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{storage.uri()}: workers of an earlier run are still alive after a "
                        "minute; stop them (ray stop) or give this run another directory"
                    ) from None
                if not has_reported:
                    say("waiting for the workers of an earlier, killed run to end")
                    has_reported = True
                time.sleep(0.1)


def share_workers_lock(storage: Storage) -> None:
    """Share the workers' lock of a run directory for as long as this process lives.

    The lock keeps other runs out until the driver calls `release_workers_lock`.

    Raises:
        RunError: its file cannot be opened.
    """
    if not storage.is_local:
        return
    path = storage.local_path(WORKERS_LOCK)
    held = _held.get(storage.root)
    if held is not None and _is_still(held, path):
        return
    try:
        file = path.open("a+b")
    except OSError as error:
        raise RunError(f"cannot write {storage.uri(WORKERS_LOCK)}: {error}") from error
    fcntl.flock(file, fcntl.LOCK_SH)
    _held[storage.root] = file


def _is_still(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is the one at the path."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def release_workers_lock(storage: Storage) -> None:
    """Release the workers' lock, because no worker of the run will write any more.

    Only the driver that holds the run's lock may call this. Ray keeps idle processes for later
    tasks of the same driver, and they keep their shared locks. So the file is removed: the next
    run creates another one, which those processes do not hold.
    """
    if storage.is_local:
        # If it cannot be removed, the next run waits for the processes that share it.
        with contextlib.suppress(OSError):
            storage.local_path(WORKERS_LOCK).unlink(missing_ok=True)


@contextlib.contextmanager
def _heartbeat_lock(storage: Storage) -> Iterator[None]:
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
        yield
    finally:
        stop.set()
        thread.join()
        # If it cannot be deleted, its heartbeat ends: the next run finds it abandoned.
        with contextlib.suppress(RunError):
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
