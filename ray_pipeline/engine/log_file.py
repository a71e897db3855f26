"""The run's log: a file whose faults do not end the run.

A full disk must neither end a run that could continue nor hide the message that says why it ended,
so a line that cannot be written is left out, and `LogFile.error` remembers why.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.redaction import redacted
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.layout import LOG_FILE

_log = logging.getLogger("ray_pipeline")


class LogFile(io.TextIOBase):
    """A text file to append to, opened with the first line. Writing and closing never raise.

    Attributes:
        error: why the first line that is missing could not be written; None: none is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self.error: OSError | None = None

    def writable(self) -> bool:
        """Yes."""
        return True

    def write(self, text: str) -> int:
        """Append text, without secrets; returns its length, as if all of it had been written."""
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("ab", buffering=0)
            self._file.write(redacted(text).encode("utf-8", "replace"))
        except OSError as error:
            self.error = self.error or error
        return len(text)

    def fileno(self) -> int:
        """The descriptor of the open file, for callers that write to it directly."""
        if self._file is None:
            raise io.UnsupportedOperation("not open yet")
        return self._file.fileno()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        super().close()


@contextlib.contextmanager
def run_log(storage: Storage, say: Callable[[str], None]) -> Iterator[Path]:
    """The log of a run, for Ray's lines and for tracebacks; copied to object storage at the end.

    Args:
        storage: the run directory.
        say: called once with a message when lines are missing from the log.

    Yields its path on this machine.
    """
    with tempfile.TemporaryDirectory(prefix="ray-pipeline-") as folder:
        path = storage.local_path(LOG_FILE) if storage.is_local else Path(folder) / "ray.log"
        # Created with the first line: a run that reuses everything logs nothing.
        file = LogFile(path)
        before = _log.handlers, _log.propagate
        _log.handlers, _log.propagate = [logging.StreamHandler(file)], False
        try:
            yield path
        finally:
            _log.handlers, _log.propagate = before
            file.close()
            if file.error is not None:
                say(f"lines are missing from {path}: {file.error}")
            if not storage.is_local and path.exists():
                # A bucket that cannot be reached has already been reported as the run's error.
                with contextlib.suppress(RunError):
                    storage.write_bytes(LOG_FILE, path.read_bytes())
