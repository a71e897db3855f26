"""The learning curve of a training: a line of JSON for each step and each evaluation."""

from __future__ import annotations

import time
from typing import Any

import orjson

from ray_pipeline.core.storage import Storage

_SAVE_SECONDS = 5.0


class Curve:
    """Collects the loop's figures, and puts them on storage every few seconds.

    Call `save` before each checkpoint: a training that goes on from it repeats nothing before. A
    resumed training repeats the steps since its last checkpoint: what the file has of them is
    replaced, so each step is in it once.

    Args:
        storage: the run directory.
        path: of the file in it.
    """

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage = storage
        self._path = path
        self._figures = read_curve(storage, path)
        self._resumed = True
        self._saved = time.monotonic()

    def add(self, figures: dict[str, Any]) -> None:
        """Take in figures with their ``step``."""
        if self._resumed:
            self._figures = [one for one in self._figures if one["step"] < figures["step"]]
            self._resumed = False
        self._figures.append(figures)
        if time.monotonic() - self._saved > _SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write all that was collected."""
        lines = b"".join(orjson.dumps(one) + b"\n" for one in self._figures)
        self._storage.write_bytes(self._path, lines)
        self._saved = time.monotonic()


def read_curve(storage: Storage, path: str) -> list[dict[str, Any]]:
    """The lines of a curve; none where there is no file."""
    return [orjson.loads(line) for line in (storage.read_bytes(path) or b"").splitlines()]
