"""Starts commands as forks of one process that has imported Ray and Arrow already.

Each command is still a process with its own id, streams, environment and exit status, and imports
this project itself. It only saves the two seconds in which it would import other packages, half of
the time of a small run.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

#: What they read from the environment on import, but for `RAY_AUTH_MODE`, no test changes.
PRELOADED = ("ray", "ray.data", "pandas", "pyarrow.csv", "pyarrow.parquet", "pyarrow.json")
PRELOADED += ("pydantic", "typer", "rich.table", "rich.live", "jinja2", "aiohttp", "yaml")
_MOST = 1 << 20


class Started:
    """A command that was started; what tests need of `subprocess.Popen`."""

    def __init__(
        self, module: str, arguments: Sequence[str], cwd: Path, env: Mapping[str, str]
    ) -> None:
        (out, out_end), (err, err_end), (status, status_end) = (os.pipe() for _ in range(3))
        request = {"module": module, "arguments": arguments, "cwd": str(cwd), "env": dict(env)}
        ends = [out_end, err_end, status_end]
        socket.send_fds(_server(), [json.dumps(request).encode()], ends)
        for end in ends:
            os.close(end)
        self.args = [module, *arguments]
        # An undecodable byte must not end the reading thread: all output would be lost.
        self.stdout: IO[str] = os.fdopen(out, errors="replace")
        self.stderr: IO[str] = os.fdopen(err, errors="replace")
        self.returncode: int | None = None
        self._status: IO[str] = os.fdopen(status)
        self.pid = int(self._status.readline())

    def poll(self) -> int | None:
        """The exit code if the command has ended; minus a signal's number if that ended it."""
        return self._wait(0)

    def _wait(self, seconds: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], seconds)[0]:
            self.returncode = os.waitstatus_to_exitcode(int(self._status.readline()))
            self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it unless the command has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it writes, to its end.

        Raises:
            subprocess.TimeoutExpired: it is still running; a further call returns everything.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        for thread in self._readers:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if self._wait(left) is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self._read["stdout"], self._read["stderr"]

    @functools.cached_property
    def _readers(self) -> list[threading.Thread]:
        self._read = {"stdout": "", "stderr": ""}
        threads = [threading.Thread(target=self._drain, args=(n,), daemon=True) for n in self._read]
        for thread in threads:
            thread.start()
        return threads

    def _drain(self, name: str) -> None:
        with getattr(self, name) as stream:
            self._read[name] = stream.read()


@functools.cache
def _server() -> socket.socket:
    """The server's socket; it ends when this process does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MOST)
    command = [sys.executable, str(Path(__file__).resolve()), str(theirs.fileno())]
    # Ray looks at this one when it is imported; it is what clusters of its own have by default.
    environment = {"RAY_AUTH_MODE": "token", **os.environ}
    subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
    theirs.close()
    return ours


def _serve(requests: socket.socket) -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # its children need nobody to wait for them
    while True:
        message, ends, _, _ = socket.recv_fds(requests, _MOST, 3)
        if not message:
            return
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _keep(json.loads(message), *ends)
            return
        for end in ends:
            os.close(end)


def _keep(request: dict, out: int, err: int, status: int) -> None:
    """Fork the command; report its process id and exit status. Returns in the command only."""
    pid = os.fork()
    if pid == 0:
        os.close(status)
        _become(request, out, err)
        return
    os.close(out)
    os.close(err)
    os.write(status, f"{pid}\n".encode())
    os.write(status, f"{os.waitpid(pid, 0)[1]}\n".encode())
    os._exit(0)


def _become(request: dict, out: int, err: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for end, number in ((out, 1), (err, 2)):
        os.dup2(end, number)
        os.close(end)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = [request["module"], *request["arguments"]]
    sys.path[0] = request["cwd"]
    importlib.import_module(request["module"]).main()


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
