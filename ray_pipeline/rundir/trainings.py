"""What trainings left in a run directory: the figures they ended with, and their learning curves.

A training that goes on, or was stopped, has a curve and no figures yet.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray_pipeline.rundir.curve import read_curve
from ray_pipeline.rundir.layout import segment_folder, work_folder
from ray_pipeline.rundir.ledger import Done
from ray_pipeline.rundir.reader import RunReader

#: Points of a curve: steps with a value at each.
Points = list[tuple[int, float]]


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


def finite(value: Any) -> float | None:
    """The value where it is a finite number: JSON has null for the others."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


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
