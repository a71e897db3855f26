"""Finds what would keep Ray from starting or from being joined, before it is tried.

Ray itself reports these faults late or in terms of its parts: an address where nothing listens
takes it minutes, and a long temporary folder is a socket that cannot be made.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.shadowing import explanation, shadowing_file

#: Seconds that a cluster's head may take to accept a connection.
_CONNECT_SECONDS = 5.0
#: Seconds after Ctrl-C until a process that Ray's native code keeps busy is ended.
_INTERRUPT_SECONDS = 3.0
#: Bytes that the path of a Unix socket can have.
_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
#: The longest path that Ray appends to its temporary folder, but for the process id.
_SOCKET_PATH = "/ray/session_2026-01-01_00-00-00_000000_/sockets/plasma_store"
#: Open files that Ray's processes need on a small machine; below, they fail in many ways.
_OPEN_FILES = 256
#: Bytes of the smallest store that Ray starts with.
_STORE_BYTES = 80 << 20
#: Ray's own forms of an address: HOST:PORT, with the port of Ray Client after ``ray://``.
_ADDRESS = re.compile(r"(?:ray://)?(?P<host>\[[^\]]+\]|[^:/\s]+):(?P<port>\d{1,5})")


@dataclass(frozen=True)
class ClusterAddress:
    """The address of a cluster to join, and where it was given."""

    value: str
    origin: str
    #: How to do without the cluster.
    otherwise: str

    def check(self) -> None:
        """Check that something listens there.

        Raises:
            UserError: nothing does, or it is no address.
        """
        if "://" in self.value and not self.value.startswith(("ray://", "http")):
            return  # a scheme that an extension of Ray knows
        parts = _ADDRESS.fullmatch(self.value)
        if parts is None:
            raise UserError(
                f"{self.origin}: {self.value!r} is not the address of a Ray cluster: give "
                f"HOST:PORT, such as 10.0.0.1:6379, {self.otherwise}"
            )
        try:
            address = (parts["host"].strip("[]"), int(parts["port"]))
            socket.create_connection(address, timeout=_CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise UserError(
                f"no Ray cluster at {self.value} ({self.origin}) answers: {error}. Start it, "
                f"correct the address, {self.otherwise}"
            ) from None


_LOCAL = "or give --address local to start Ray on this machine"


def cluster_address(configured: str | None) -> ClusterAddress | None:
    """The cluster that a run joins; None: it starts Ray on this machine.

    In order: the configured address, ``RAY_ADDRESS``, and the cluster that ``ray start`` started
    on this machine, whose address Ray keeps in a file. ``auto`` is that cluster, too: Ray's own
    ``auto`` would also join the private cluster of another run, which ends with that run.

    Args:
        configured: the run's ``address``.

    Raises:
        UserError: the address is ``auto``, and there is no such cluster.
    """
    value, origin, otherwise = configured, "address (--address)", _LOCAL
    if not value:
        value = os.environ.get("RAY_ADDRESS") or None
        origin, otherwise = (
            "the environment variable RAY_ADDRESS",
            f"unset RAY_ADDRESS, {_LOCAL}",
        )
    if value == "local":
        return None
    if value not in (None, "auto"):
        return ClusterAddress(value, origin, otherwise)
    file = temporary_folder()[1] / "ray" / "ray_current_cluster"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if started := file.read_text().strip():
            why = f"the file {file}, which `ray start` wrote"
            return ClusterAddress(started, why, f"delete that file, {_LOCAL}")
    if value == "auto":
        raise UserError(
            f"{origin}: 'auto' is the cluster that `ray start` started on this machine, and there "
            f"is none ({file} does not exist): start one, name its HOST:PORT, {_LOCAL}"
        )
    return None


def temporary_folder() -> tuple[str, Path]:
    """The folder in which Ray makes its own, and the name of the variable that sets it."""
    for variable in ("RAY_TMPDIR", "TMPDIR"):
        if variable in os.environ:
            return variable, Path(os.environ[variable])
    return "RAY_TMPDIR", Path("/tmp")


def check_workers_folder() -> None:
    """Check the current folder, which Ray's workers look into first for every module.

    Raises:
        UserError: it holds a file that shadows a module; the message names the file.
    """
    if (path := shadowing_file(str(Path.cwd()))) is not None:
        raise UserError(explanation(path))


def check_machine() -> None:
    """Check what Ray needs of this machine to be started on it.

    Raises:
        UserError: the temporary folder has a path that is too long or cannot be written, or a
            limit of this user is too low.
    """
    variable, folder = temporary_folder()
    room = _SOCKET_BYTES - len(_SOCKET_PATH) - len(str(os.getpid()))
    length = len(os.fsencode(folder.absolute()))
    if length > room:
        raise UserError(
            f"{variable}: the path {folder} has {length} bytes, and Ray's sockets, which it makes "
            f"in this folder, leave room for {room}: set RAY_TMPDIR to a folder with a shorter "
            "path, such as RAY_TMPDIR=/tmp"
        )
    try:
        (folder / "ray").mkdir(parents=True, exist_ok=True)
        writable = os.access(folder / "ray", os.W_OK | os.X_OK)
        why = "" if writable else "no permission to write"
    except OSError as error:
        why = str(error)
    if why:
        raise UserError(
            f"Ray's temporary folder {folder / 'ray'} cannot be used ({why}): set RAY_TMPDIR to "
            "a folder that this user can write to"
        )
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files < _OPEN_FILES:
        raise UserError(
            f"this shell allows {files} open files a process (ulimit -n), and Ray needs some "
            f"hundreds: run `ulimit -n 65536` first, or ask for a higher limit"
        )
    free = shutil.disk_usage(folder).free
    if free < _STORE_BYTES:
        raise UserError(
            f"Ray's temporary folder {folder / 'ray'} has {free >> 20} MB of free space: make "
            "room, or set RAY_TMPDIR to a folder on another disk"
        )
    _check_token_folder()


def _check_token_folder() -> None:
    """Check that Ray can keep the token of its clusters, which it makes at the first start.

    Raises:
        UserError: there is none, and the home folder cannot be written.
    """
    given = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if given or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    try:
        folder = Path.home() / ".ray"
        if (folder / "auth_token").is_file():
            return
        folder.mkdir(exist_ok=True)
        why = "" if os.access(folder, os.W_OK | os.X_OK) else "no permission to write"
    except (OSError, RuntimeError) as error:
        why = str(error)
    if why:
        raise UserError(
            f"Ray keeps the token of its clusters in the folder .ray of the home folder, which "
            f"cannot be used ({why}): set HOME to a folder that this user can write to, or "
            "RAY_AUTH_TOKEN_PATH to a file with a token"
        )


@contextlib.contextmanager
def ended_by_interrupt(interrupted: Callable[[], None]) -> Iterator[None]:
    """Let Ctrl-C end this process within seconds while Ray's native code starts or connects.

    Python raises KeyboardInterrupt when that code returns, which may take minutes.

    Args:
        interrupted: called in another thread before the process ends.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    left = threading.Event()

    def watch() -> None:
        # The numbers of signals, and nothing once this block has ended.
        while numbers := reader.recv(16):
            if {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} & set(numbers):
                break
        if numbers and not left.wait(_INTERRUPT_SECONDS):
            with contextlib.suppress(Exception):
                interrupted()
            os._exit(130)

    thread = threading.Thread(target=watch, daemon=True, name="interrupt-while-connecting")
    thread.start()
    try:
        yield
    finally:
        left.set()
        signal.set_wakeup_fd(before)
        writer.close()
        thread.join(1.0)
        reader.close()


def interruptible(hung_up: Callable[[], None] = lambda: None) -> None:
    """Make SIGTERM (``ray job stop``) and SIGHUP (a closed terminal) end a run as Ctrl-C does.

    Args:
        hung_up: called first on SIGHUP: what is written to the terminal may be an error by now.
    """
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        return

    def hang_up(number: int, frame: FrameType | None) -> None:
        hung_up()
        # It comes twice, to the terminal's session and to its processes: the second would end the
        # wait for the requests in flight.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as `nohup` sets it
        signal.signal(signal.SIGHUP, hang_up)


@contextlib.contextmanager
def sigterm_kept() -> Iterator[None]:
    """Put back the handler of SIGTERM that was there: `ray.init` replaces it by its own."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and before is signal.default_int_handler:  # that of `interruptible`
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def hang_up_blocked() -> Iterator[None]:
    """Keep SIGHUP from the processes that the block starts: a closed terminal sends it to all.

    The run stops first, and needs its cluster for that; then it ends these processes itself. In
    this process, a signal that comes meanwhile is handled when the block ends.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
