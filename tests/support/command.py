"""The `ray-pipeline` command as a process of its own, as users start it."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from support.fork_server import Started

TESTS = Path(__file__).parents[1]
REPOSITORY = TESTS.parent


@dataclass
class Finished:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


class Command:
    """The `ray-pipeline` command as a process of its own, on the session's cluster.

    Forked from a process that has imported Ray already: see `fork_server`.
    """

    def __init__(self, address: str | None, folder: Path) -> None:
        self.folder = folder
        self.environment = dict(os.environ)
        if address is not None:
            self.environment["RAY_ADDRESS"] = address

    def start(self, *arguments: str | Path, **env: str) -> Started:
        """Start it in the background."""
        words = [str(argument) for argument in arguments]
        return Started("ray_pipeline.cli.app", words, self.folder, self.environment | env)

    def __call__(self, *arguments: str | Path, timeout: float = 180, **env: str) -> Finished:
        """Run it to its end."""
        process = self.start(*arguments, **env)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"the command hung:\n{out}\n{err}") from None
        return Finished(process.returncode, out, err)

    def both(self, *arguments: str | Path, **env: str) -> list[Finished]:
        """Run `plan` and `run` at the same time: for what they refuse with the same words."""
        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(lambda verb: self(verb, *arguments, **env), ("plan", "run")))


class InProcess(Command):
    """The command as a call in the test's own process: for what ends before Ray is needed.

    It takes milliseconds where a process of its own takes seconds to import the job.
    """

    def __init__(self, folder: Path, address: str | None = "local") -> None:
        super().__init__(address, folder)

    def __call__(self, *arguments: str | Path, timeout: float = 180, **env: str) -> Finished:
        """Run it to its end; ``timeout`` is not needed, pytest's own ends what hangs."""
        from ray_pipeline.cli import terminal
        from ray_pipeline.cli.app import app

        consoles = (terminal.out, terminal.err)
        streams = (io.StringIO(), io.StringIO())
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.chdir(self.folder))
            stack.enter_context(mock.patch.dict(os.environ, self.environment | env, clear=True))
            for console, stream in zip(consoles, streams, strict=True):
                stack.callback(setattr, console, "file", console.file)
                console.file = stream
            try:
                app([str(argument) for argument in arguments])
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
        return Finished(code, *(stream.getvalue() for stream in streams))

    def both(self, *arguments: str | Path, **env: str) -> list[Finished]:
        """`plan` and `run`, one after the other."""
        return [self(verb, *arguments, **env) for verb in ("plan", "run")]
