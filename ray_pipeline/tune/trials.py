"""A search's parameters, their ranges, and the record of finished trials. Without Ray."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, Literal

import orjson
from pydantic import Field, model_validator

from ray_pipeline.core.config import Section
from ray_pipeline.core.errors import RunError
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.unreadable import read_json, read_json_lines
from ray_pipeline.train.loop import LoopConfig
from ray_pipeline.train.losses import Objective

#: The best parameters of the distillation, in the run directory.
BEST = "search/best.json"
#: What trials report after each evaluation: their lowest validation loss so far.
LOSS = "validation_loss"
#: The loss of a trial that diverged: worse than any other, and finite, so that it can be ranked.
WORST = 1e9

Status = Literal["finished", "pruned", "diverged"]


class Parameters(Section):
    """What distillation is searched over: ``alpha·CE + beta·T²·KL``, and the learning rate."""

    alpha: float = Field(description="α, the weight of the cross-entropy")
    beta: float = Field(description="β, the weight of T² KL(teacher ‖ student)")
    temperature: float = Field(description="T: divides the logits of teacher and student")
    learning_rate: float = Field(description="the highest one of the schedule")

    @property
    def objective(self) -> Objective:
        """The loss."""
        return Objective(self.alpha, self.beta, self.temperature)

    def loop(self, config: LoopConfig) -> LoopConfig:
        """A training loop's configuration with this learning rate."""
        return config.model_copy(update={"learning_rate": self.learning_rate})

    def __str__(self) -> str:
        """The parameters in a line, for progress messages."""
        return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in self)


class Range(Section):
    """The range of a parameter, both ends included."""

    low: float = Field(ge=0, description="lowest value")
    high: float = Field(description="highest value")

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low ({self.low:g}) is above high ({self.high:g})")
        return self

    def __str__(self) -> str:
        """``low to high``, for messages."""
        return f"{self.low:g} to {self.high:g}"


class Space(Section):
    """The ranges of a search; by default around the values of the original experiment."""

    alpha: Range = Field(Range(low=0.1, high=1.0), description="α, the weight of the cross-entropy")
    beta: Range = Field(
        Range(low=0.05, high=1.0), description="β, the weight of T² KL(teacher ‖ student)"
    )
    temperature: Range = Field(
        Range(low=0.5, high=4.0), description="T: divides the logits of teacher and student"
    )
    learning_rate: Range = Field(
        Range(low=1e-5, high=1e-3), description="sampled on a logarithmic scale"
    )

    @model_validator(mode="after")
    def _positive(self) -> Space:
        for name in ("temperature", "learning_rate"):
            if getattr(self, name).low == 0:
                raise ValueError(f"{name}: low must be above 0")
        return self

    @property
    def searched(self) -> list[str]:
        """Names of the parameters that vary."""
        ranges = {name: getattr(self, name) for name in type(self).model_fields}
        return [name for name, limits in ranges.items() if limits.low < limits.high]

    def outside(self, parameters: Parameters) -> list[str]:
        """Names of the parameters that lie outside their ranges."""
        ranges = {name: getattr(self, name) for name in type(self).model_fields}
        return [
            name for name, value in parameters if not ranges[name].low <= value <= ranges[name].high
        ]


class PruningConfig(Section):
    """When a search stops trials that fall behind (ASHA, Li et al. 2020)."""

    grace: int = Field(1, ge=1, description="evaluations of a trial before the first decision")
    reduction: float = Field(
        3,
        gt=1,
        description="at each decision about 1 / reduction of the trials continue; the next one "
        "comes after reduction times as many evaluations",
    )


@dataclass(frozen=True)
class TrialRecord:
    """A trial that has finished.

    Attributes:
        number: from 0, in the order in which trials were proposed.
        status: trained to its end; stopped because others were better; or a loss was not finite.
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
        """What the trial reported after each evaluation: its lowest loss so far."""
        lowest = list(accumulate((loss for _, loss in self.losses), min))
        return [*lowest, WORST] if self.status == "diverged" else lowest

    def to_json(self) -> dict[str, Any]:
        """The record as plain data."""
        data = {**asdict(self), "parameters": self.parameters.model_dump(), "loss": self.loss}
        return {**data, "losses": [list(pair) for pair in self.losses]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TrialRecord:
        """A record that `to_json` gave."""
        losses = tuple((int(step), float(loss)) for step, loss in data["losses"])
        parameters = Parameters(**data["parameters"])
        return cls(data["number"], data["status"], parameters, losses, data["seconds"])


def best(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The trial with the lowest loss, the earliest of equals; None where all diverged."""
    chosen = min(records, key=lambda record: (record.score, record.number), default=None)
    return None if chosen is None or math.isclose(chosen.score, WORST) else chosen


class Trials:
    """The file of a study's finished trials, a line of JSON each; trials of others are dropped.

    A trial is on storage before the next one is proposed. The run that holds the run directory's
    lock is the only writer, so the file is replaced as a whole: that works on object storage, too,
    and no line can be torn.

    Args:
        storage: the run directory.
        path: the file, relative to it.
        study: identity of what is searched; see `search.Study`.
    """

    def __init__(self, storage: Storage, path: str, study: str) -> None:
        self._storage = storage
        self._path = path
        self._study = study
        lines = read_json_lines(storage, path)
        #: In the order in which they finished.
        self.records = [TrialRecord.from_json(line) for line in lines if line["study"] == study]

    def add(self, record: TrialRecord) -> None:
        """Write down a finished trial.

        Raises:
            RunError: it could not be written.
        """
        self.records.append(record)
        lines = [orjson.dumps({"study": self._study, **each.to_json()}) for each in self.records]
        self._storage.write_bytes(self._path, b"".join(line + b"\n" for line in lines))


def put_best(storage: Storage, parameters: Parameters, path: str = BEST) -> None:
    """Write the best parameters of a search of the run.

    Raises:
        RunError: they could not be written.
    """
    storage.write_bytes(path, orjson.dumps(parameters.model_dump(), option=orjson.OPT_INDENT_2))


def get_best(storage: Storage, path: str = BEST) -> Parameters:
    """The best parameters of a search of the run.

    Raises:
        RunError: there are none, or they cannot be read.
    """
    best = read_json(storage, path)
    if not isinstance(best, dict):
        raise RunError(
            f"{storage.uri(path)}: the run's search left no parameters that can be read. Delete "
            "the file, and run again: finished trials are not repeated"
        )
    return Parameters(**best)
