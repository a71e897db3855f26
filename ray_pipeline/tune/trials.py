"""The record of a search's finished trials: what a search that was killed goes on from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, Literal

import orjson

from ray_pipeline.core.storage import Storage
from ray_pipeline.tune.parameters import Parameters

#: Stands for a loss where there is none: worse than any, and finite, so that it can be ranked.
WORST = 1e9

Status = Literal["finished", "pruned", "diverged"]


@dataclass(frozen=True)
class TrialRecord:
    """A trial that will not be run again.

    Attributes:
        number: from 0, in the order in which trials were thought up.
        status: trained to its end, stopped before because others were better, or no training at
            all: a loss was not a number.
        parameters: what was tried.
        losses: (step, validation loss) of its evaluations; nats per answer token.
        seconds: of training and evaluation.
    """

    number: int
    status: Status
    parameters: Parameters
    losses: tuple[tuple[int, float], ...]
    seconds: float

    @property
    def loss(self) -> float | None:
        """The lowest validation loss, whose weights a training keeps; None: it diverged."""
        if self.status == "diverged" or not self.losses:
            return None
        return min(loss for _, loss in self.losses)

    @property
    def score(self) -> float:
        """The loss, or `WORST`."""
        return WORST if self.loss is None else self.loss

    @property
    def scores(self) -> list[float]:
        """What the search was told after each evaluation: the lowest loss so far."""
        lowest = list(accumulate((loss for _, loss in self.losses), min))
        return [*lowest, WORST] if self.status == "diverged" else lowest

    def to_json(self) -> dict[str, Any]:
        """As a line of the record."""
        data = {**asdict(self), "parameters": self.parameters.model_dump(), "loss": self.loss}
        return {**data, "losses": [list(one) for one in self.losses]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TrialRecord:
        """Of a line of the record."""
        losses = tuple((int(step), float(loss)) for step, loss in data["losses"])
        parameters = Parameters(**data["parameters"])
        return cls(data["number"], data["status"], parameters, losses, data["seconds"])


def best(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The trial with the lowest loss, the earlier one of two; None where all diverged."""
    chosen = min(records, key=lambda one: (one.score, one.number), default=None)
    return None if chosen is None or math.isclose(chosen.score, WORST) else chosen


class Trials:
    """A file with a line of JSON for each finished trial of one study; others' are not kept.

    Each trial is on storage before the next one is thought up. There is one writer, the run that
    has the run directory's lock, so the file is replaced as a whole: that works on object storage
    as well, and no line can be torn.

    Args:
        storage: the run directory.
        path: of the file in it.
        study: identity of what is searched; see `search.Study`.
    """

    def __init__(self, storage: Storage, path: str, study: str) -> None:
        self._storage = storage
        self._path = path
        self._study = study
        lines = (storage.read_bytes(path) or b"").splitlines()
        read = [orjson.loads(line) for line in lines]
        #: In the order in which they finished.
        self.records = [TrialRecord.from_json(one) for one in read if one["study"] == study]

    def add(self, record: TrialRecord) -> None:
        """Write a finished trial down.

        Raises:
            RunError: it could not be written.
        """
        self.records.append(record)
        lines = [orjson.dumps({"study": self._study, **one.to_json()}) for one in self.records]
        self._storage.write_bytes(self._path, b"".join(line + b"\n" for line in lines))
