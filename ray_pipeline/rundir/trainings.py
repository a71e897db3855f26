"""Trainings in a run directory: their learning curves and final figures.

A curve is a file with a line of JSON for each step and each evaluation. A training that is running,
or was stopped, has a curve but no final figures yet.
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
from ray_pipeline.rundir.unreadable import read_json_lines

#: Seconds between two saves of a curve.
_SAVE_SECONDS = 5.0
#: The points of a curve: pairs of a step and a value.
Points = list[tuple[int, float]]


class Curve:
    """Collects the training loop's figures, and stores them every few seconds.

    Call `save` before each checkpoint, so that the file covers all steps before it. A resumed
    training repeats the steps since its last checkpoint: their lines in the file are replaced, so
    each step is in it once.

    Args:
        storage: the run directory.
        path: the curve's file, relative to the run directory.
    """

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage = storage
        self._path = path
        self._figures = read_curve(storage, path)
        self._resumed = True
        self._saved = time.monotonic()

    def begins_at(self, step: int) -> bool:
        """Whether the first line is of a step: 0 is what was measured before the first step."""
        return bool(self._figures) and self._figures[0].get("step") == step

    def add(self, figures: dict[str, Any]) -> None:
        """Add the figures of a step, whose number is under ``step``."""
        if self._resumed:
            self._figures = [line for line in self._figures if line["step"] < figures["step"]]
            self._resumed = False
        self._figures.append(figures)
        if time.monotonic() - self._saved > _SAVE_SECONDS:
            self.save()

    def last_epoch(self) -> float | None:
        """The mean cross-entropy of the last epoch's steps, over answer tokens, in nats.

        None if no step was collected. The weights change during an epoch, so it is above the loss
        of the last weights.
        """
        steps = [line for line in self._figures if "cross_entropy" in line]
        last = [line for line in steps if line["epoch"] == steps[-1]["epoch"]]
        tokens = sum(line["answer_tokens"] for line in last)
        if not tokens:
            return None
        return float(sum(x["cross_entropy"] * x["answer_tokens"] for x in last) / tokens)

    def save(self) -> None:
        """Write all that was collected."""
        lines = b"".join(orjson.dumps(line) + b"\n" for line in self._figures)
        self._storage.write_bytes(self._path, lines)
        self._saved = time.monotonic()


def read_curve(storage: Storage, path: str) -> list[dict[str, Any]]:
    """The lines of a curve, as plain data; empty where there is no file, or not one is readable."""
    return [line for line in read_json_lines(storage, path) if isinstance(line, dict)]


@dataclass(frozen=True)
class Training:
    """The training of one stage."""

    stage: str
    #: The final figures from ``metrics.json``; empty while the training is not finished.
    figures: Mapping[str, Any]
    curve: Sequence[Mapping[str, Any]]

    @property
    def is_finished(self) -> bool:
        """Whether the training ran to its end."""
        return bool(self.figures)

    def points(self, name: str) -> Points:
        """A figure's values over the steps, without those that are not finite numbers."""
        pairs = ((line.get("step"), finite(line.get(name))) for line in self.curve)
        return [(s, value) for s, value in pairs if isinstance(s, int) and value is not None]

    @property
    def steps(self) -> int:
        """Number of optimizer steps so far."""
        return max((step for step, _ in self.points("loss")), default=0)

    @property
    def total_steps(self) -> int:
        """Number of optimizer steps of the whole training, at most."""
        return int(max((total for _, total in self.points("total_steps")), default=0))


def trainings(reader: RunReader) -> list[Training]:
    """The trainings of a run in the order of their stages; an unfinished one comes last."""
    result = []
    for entry in reader.ledger.entries:
        name = entry.account.name
        figures = reader.made_by(name)
        if figures is not None and "steps" in figures:
            result.append(Training(name, figures, _curve(reader, entry.index, name)))
    if (current := _stage_under_way(reader)) is not None and (curve := _curve(reader, *current)):
        result.append(Training(current[1], {}, curve))
    return result


def _curve(reader: RunReader, index: int, stage: str) -> list[dict[str, Any]]:
    return read_curve(reader.storage, f"{work_folder(segment_folder(index, stage))}/curve.jsonl")


def _stage_under_way(reader: RunReader) -> tuple[int, str] | None:
    """The index and name of the stage that may be running: the one after the last finished one.

    None unless that one is complete on storage: otherwise a curve of the following stage may be
    that of an earlier run.
    """
    entries = [entry for entry in reader.ledger.entries if entry.finished]
    stages = reader.config.get("stages")
    if reader.ledger.status == "succeeded" or not entries or not isinstance(stages, dict):
        return None
    last = entries[-1]
    done = Done.load(reader.storage, segment_folder(last.index, last.account.name))
    if done is None or done.fingerprint != last.fingerprint or len(stages) <= last.index:
        return None
    # The source has index 0 in the ledger, so the configuration's stages are offset by one.
    return last.index + 1, str(list(stages)[last.index])
