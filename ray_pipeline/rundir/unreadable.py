"""Files of a run that a power loss or a fault of the disk has left unreadable.

They count as not done: what is in them is made again. The user is told which files they are.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from ray_pipeline.core.errors import in_one_line
from ray_pipeline.core.storage import Storage

#: Its lines are in the log of the run, and `telling` shows them to the user.
_log = logging.getLogger("ray_pipeline.unreadable")


def read_json(storage: Storage, path: str) -> Any:
    """The content of a file of JSON; None where there is no file, or where it cannot be read.

    Raises:
        RunError: storage cannot be read.
    """
    raw = storage.read_bytes(path)
    if raw is None:
        return None
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        tell(storage, path, error)
        return None


def read_json_lines(storage: Storage, path: str) -> list[Any]:
    """The lines of a file, up to the first one that cannot be read; empty where there is none.

    Raises:
        RunError: storage cannot be read.
    """
    lines = []
    for line in (storage.read_bytes(path) or b"").splitlines():
        try:
            lines.append(orjson.loads(line))
        except orjson.JSONDecodeError as error:
            tell(storage, path, error)
            break
    return lines


def tell(storage: Storage, path: str, error: Exception) -> None:
    """Tell the user of a file that cannot be read and is made again.

    In the process of the run; lines of workers are in its log.
    """
    why = in_one_line(error, 200)
    _log.warning("%s cannot be read (%s): it is made again", storage.uri(path), why)


@contextlib.contextmanager
def telling(say: Callable[[str], None]) -> Iterator[None]:
    """Pass to ``say``, within the block, a line for each file that cannot be read, once each."""
    handler = _Saying(say)
    _log.addHandler(handler)
    try:
        yield
    finally:
        _log.removeHandler(handler)


class _Saying(logging.Handler):
    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say = say
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self._said:
            self._said.add(text)
            self._say(text)
