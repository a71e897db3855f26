"""The lock of a run directory on object storage: an object that its owner keeps renewing.

The owner is a random id. It is checked with every renewal: whoever was paused, and whose lock
another run has taken meanwhile, finds that out before it writes. Workers of the run, on any
machine, check the same object (`Held`), and trust it for a few seconds only, always less than the
time after which another run may take the lock.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson

from ray_pipeline.core.conditional import GuardedObject, PlainObject, Seen, guarded_object
from ray_pipeline.core.errors import LockLost, RunError, UserError
from ray_pipeline.core.processes import has_ended, process_identity
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.layout import RUN_LOCK

#: Seconds between renewals; the age at which a lock counts as abandoned; and the age at which its
#: own run stops to write, so that it has stopped when another one may begin.
HEARTBEAT_SECONDS = 5.0
ABANDONED_SECONDS = 30.0
_STOP_SECONDS = 22.0
#: Seconds for which a process trusts what it has read.
_TRUST_SECONDS = 5.0


def owner() -> dict[str, Any]:
    """A new owner of a lock: a random id, and what a person needs to find the process."""
    return {
        "id": uuid.uuid4().hex,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "process": process_identity(os.getpid()),
    }


def refusal(storage: Storage, holder: dict[str, Any], hint: str = "") -> UserError:
    """The message for a run whose directory another one holds."""
    return UserError(
        f"{storage.uri()}: another run holds this directory: process {holder.get('pid', '?')} on "
        f"{holder.get('host', '?')}, started {holder.get('started', '?')}. Wait for it, stop it, "
        f"or give this run another directory (--run-dir){hint}"
    )


@contextlib.contextmanager
def remote_lock(storage: Storage, say: Callable[[str], None]) -> Iterator[str]:
    """Hold the lock of a run directory on object storage for the block; yields the run's id.

    Raises:
        UserError: another run holds it.
        RunError: the storage cannot be read or written.
    """
    lock = _Lock(storage, say)
    lock.acquire()
    stop = threading.Event()
    thread = threading.Thread(
        target=lock.renew_until, args=(stop,), daemon=True, name="run-lock-heartbeat"
    )
    thread.start()
    try:
        yield lock.owner["id"]
    finally:
        stop.set()
        thread.join()
        lock.release()


class _Lock:
    def __init__(self, storage: Storage, say: Callable[[str], None]) -> None:
        self.owner = owner()
        self._storage, self._say = storage, say
        self._object: GuardedObject = guarded_object(storage, RUN_LOCK)
        self._tag: str | None = None
        self._beats = 0

    def _data(self) -> bytes:
        # Each renewal has another content, so that others see that it was renewed.
        return orjson.dumps({**self.owner, "beats": self._beats})

    def acquire(self) -> None:
        """Take the lock, from nobody or from a run that has abandoned it."""
        if not self._object.is_conditional:
            self._say_plain()
        seen = self._object.read()
        if seen is None:
            self._tag = self._object.create(self._data())
        elif self._is_abandoned(seen):
            self._tag = self._take(seen)
        if self._tag is None:
            raise self._refused(seen)
        if self._object.is_conditional and self._object.create(self._data()) is not None:
            # It was there, and the server wrote it all the same: it ignores conditions.
            self._object = plain = PlainObject(self._storage, RUN_LOCK)
            self._say_plain()
            self._tag = plain.settled(self._data())
            if self._tag is None:
                raise self._refused(None)

    def _say_plain(self) -> None:
        self._say(
            f"{self._storage.uri()}: this storage has no conditional writes, so two runs that "
            "start within seconds of each other may not see each other: start one at a time"
        )

    def _take(self, seen: Seen) -> str | None:
        self._say(f"taking over the lock of a run that has ended: {_parsed(seen).get('id', '?')}")
        if isinstance(self._object, PlainObject):
            return self._object.take(self._data(), seen.tag)
        tag = self._object.replace(self._data(), seen.tag)
        if seen.age is None or seen.age <= ABANDONED_SECONDS:
            time.sleep(_TRUST_SECONDS)  # until its workers have found out, wherever they are
        return tag

    def _refused(self, seen: Seen | None) -> UserError:
        seen = self._object.read() or seen
        if seen is None:
            return refusal(self._storage, {})
        hint = f". If it was killed, its lock is free {ABANDONED_SECONDS:.0f} s after its last sign"
        return refusal(self._storage, _parsed(seen), hint)

    def _is_abandoned(self, seen: Seen) -> bool:
        """Whether the owner of a lock has ended, or has not renewed it for long enough."""
        if has_ended(_parsed(seen).get("process")):
            return True
        if seen.age is not None:
            return seen.age > ABANDONED_SECONDS
        self._say(f"another run has left its lock: waiting {ABANDONED_SECONDS:.0f} s for a sign")
        end = time.monotonic() + ABANDONED_SECONDS
        while time.monotonic() < end:
            time.sleep(min(HEARTBEAT_SECONDS / 5, 1.0))
            now = self._object.read()
            if now is None or now.tag != seen.tag:
                return False
        return True

    def renew_until(self, stop: threading.Event) -> None:
        """Renew the lock until the event, or until it is another run's."""
        while not stop.wait(HEARTBEAT_SECONDS):
            # A renewal that fails is tried again; `Held` stops the run before it is too late.
            with contextlib.suppress(RunError):
                if not self._renew():
                    return

    def _renew(self) -> bool:
        self._beats += 1
        assert self._tag is not None
        tag = self._object.replace(self._data(), self._tag)
        if tag is None:
            # Another run has it, or the reply to our own last renewal was lost.
            seen = self._object.read()
            if seen is None or _parsed(seen).get("id") != self.owner["id"]:
                return False
            tag = seen.tag
        self._tag = tag
        return True

    def release(self) -> None:
        """Delete the lock if it is still this run's."""
        # If it cannot be deleted, its renewals end: the next run finds it abandoned.
        with contextlib.suppress(RunError):
            seen = self._object.read()
            if seen is not None and _parsed(seen).get("id") == self.owner["id"]:
                self._object.delete(seen.tag)


@dataclass(frozen=True)
class Held:
    """Checks, in any process of a run, that the run still holds its directory. Can be pickled."""

    root: str
    run_id: str

    @cached_property
    def _object(self) -> GuardedObject:
        return guarded_object(Storage(self.root), RUN_LOCK)

    def __getstate__(self) -> dict[str, str]:
        return {"root": self.root, "run_id": self.run_id}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__dict__.update(state)

    def check(self) -> None:
        """Return if the run holds its directory and another one cannot take it within seconds.

        Raises:
            LockLost: another run has taken it, or it could not be renewed.
            RunError: the lock cannot be read.
        """
        if _now() < _TRUSTED.get(self, 0.0):
            return
        with _READING:
            if _now() < _TRUSTED.get(self, 0.0):
                return
            end = _now() + 2 * HEARTBEAT_SECONDS
            while (age := self._age()) >= _STOP_SECONDS:
                # After a pause of the whole machine: its next renewal is due at once.
                if _now() > end:
                    raise LockLost(
                        f"{self.root}: the lock of this run was not renewed for {age:.0f} s, and "
                        f"another run may take it: the run stops. {_STAYS}"
                    )
                time.sleep(0.5)

    def _age(self) -> float:
        """The age of this run's lock; trusts it for as long as the age allows."""
        began = _now()
        seen = self._object.read()
        holder = {} if seen is None else _parsed(seen)
        if seen is None or holder.get("id") != self.run_id:
            by = f"process {holder.get('pid')} on {holder.get('host')}" if holder else "another run"
            raise LockLost(
                f"{self.root}: this run does not hold the directory any more, {by} has taken it "
                f"(was this run paused, or cut off from the storage?): it stops. {_STAYS}"
            )
        age = seen.age or 0.0
        _TRUSTED[self] = began + min(_TRUST_SECONDS, _STOP_SECONDS - age)
        return age


_STAYS = "What is stored stays valid; nothing more is written or requested"
#: Until when, by `_now`, a lock is trusted in this process.
_TRUSTED: dict[Held, float] = {}
_READING = threading.Lock()


def _now() -> float:
    """Seconds on a clock that also counts while the machine is suspended."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


def _parsed(seen: Seen) -> dict[str, Any]:
    try:
        holder = orjson.loads(seen.data)
    except orjson.JSONDecodeError:
        return {}
    return holder if isinstance(holder, dict) else {}
