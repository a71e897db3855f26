"""What trainings leave in a run directory: learning curves, and the figures they ended with.

A curve is a file with a line of JSON for each step and each evaluation. A training that is running,
or was stopped, has a curve and no figures yet.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from ray_pipeline.core.numbers import finite
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.layout import segment_folder, work_folder
from ray_pipeline.rundir.ledger import Done
from ray_pipeline.rundir.reader import RunReader

#: Seconds between two saves of a curve.
_SAVE_SECONDS = 5.0
#: Points of a curve: steps with a value at each.
Points = list[tuple[int, float]]


class Curve:
    """Collects the loop's figures, and puts them on storage every few seconds.

    Call `save` before each checkpoint: a training that resumes from it repeats nothing before. A
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


@dataclass(frozen=True)
class Training:
    """One stage that trains."""

    stage: str
    #: Of ``metrics.json``; empty while it is not finished.
    figures: Mapping[str, Any]
    curve: Sequence[Mapping[str, Any]]

    @property
    def is_finished(self) -> bool:
        """Whether it came to its end."""
        return bool(self.figures)

    def points(self, name: str) -> Points:
        """A figure's values over the steps; those that are no finite number are left out."""
        found = ((line.get("step"), finite(line.get(name))) for line in self.curve)
        return [(s, value) for s, value in found if isinstance(s, int) and value is not None]

    @property
    def steps(self) -> int:
        """Updates of the weights so far."""
        return max((step for step, _ in self.points("loss")), default=0)

    @property
    def total_steps(self) -> int:
        """Updates that it takes at most."""
        return int(max((total for _, total in self.points("total_steps")), default=0))


def trainings(reader: RunReader) -> list[Training]:
    """The trainings of a run in order, the unfinished one last."""
    found = []
    for entry in reader.ledger.entries:
        name = entry.account.name
        figures = reader.made_by(name)
        if figures is not None and "steps" in figures:
            found.append(Training(name, figures, _curve(reader, entry.index, name)))
    if (following := _under_way(reader)) is not None and (curve := _curve(reader, *following)):
        found.append(Training(following[1], {}, curve))
    return found


def _curve(reader: RunReader, index: int, stage: str) -> list[dict[str, Any]]:
    return read_curve(reader.storage, f"{work_folder(segment_folder(index, stage))}/curve.jsonl")


def _under_way(reader: RunReader) -> tuple[int, str] | None:
    """The stage after the last one of the ledger, with its index, where that one is complete.

    A stage that makes files enters the ledger when it is done. Whether the one before it is
    complete matters: else a curve that lies there may be that of an earlier run.
    """
    entries, stages = reader.ledger.entries, reader.config.get("stages")
    if reader.ledger.status == "succeeded" or not entries or not isinstance(stages, dict):
        return None
    last = entries[-1]
    done = Done.load(reader.storage, segment_folder(last.index, last.account.name))
    if done is None or done.fingerprint != last.fingerprint or len(stages) <= last.index:
        return None
    # The source is stage 0, so the configuration's stages are one behind.
    return last.index + 1, str(list(stages)[last.index])
