"""What a search varies, in which ranges, and the best that a run's search found. Without Ray."""

from __future__ import annotations

import orjson
from pydantic import Field, model_validator

from ray_pipeline.core.config import Section
from ray_pipeline.core.errors import RunError
from ray_pipeline.core.storage import Storage
from ray_pipeline.train.loop import LoopConfig
from ray_pipeline.train.losses import Objective

#: The best parameters, in the run directory.
BEST = "search/best.json"


class Parameters(Section):
    """What distillation is searched over: ``alpha·CE + beta·T²·KL``, and the learning rate."""

    alpha: float
    beta: float
    temperature: float
    learning_rate: float

    @property
    def objective(self) -> Objective:
        """The loss."""
        return Objective(self.alpha, self.beta, self.temperature)

    def loop(self, config: LoopConfig) -> LoopConfig:
        """A training loop's configuration with this learning rate."""
        return config.model_copy(update={"learning_rate": self.learning_rate})

    def __str__(self) -> str:
        """For a line of news."""
        return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in self)


class Range(Section):
    """Where a parameter is looked for, both ends included."""

    low: float = Field(ge=0)
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low ({self.low:g}) is above high ({self.high:g})")
        return self

    def __str__(self) -> str:
        """For a message."""
        return f"{self.low:g} to {self.high:g}"


class Space(Section):
    """The ranges of a search, around the seed's values."""

    alpha: Range = Range(low=0.1, high=1.0)
    beta: Range = Range(low=0.05, high=1.0)
    temperature: Range = Range(low=0.5, high=4.0)
    learning_rate: Range = Field(
        Range(low=1e-5, high=1e-3), description="tried on a logarithmic scale"
    )

    @model_validator(mode="after")
    def _positive(self) -> Space:
        for name in ("temperature", "learning_rate"):
            if getattr(self, name).low == 0:
                raise ValueError(f"{name}: low must be above 0")
        return self

    def outside(self, parameters: Parameters) -> list[str]:
        """Names of the parameters that lie outside of their ranges."""
        ranges = {name: getattr(self, name) for name in type(self).model_fields}
        return [
            name for name, value in parameters if not ranges[name].low <= value <= ranges[name].high
        ]


class PruningConfig(Section):
    """When a search stops trials that fall behind."""

    grace: int = Field(1, ge=1, description="evaluations before the first decision")
    reduction: float = Field(
        3, gt=1, description="about one in so many goes on at a decision; the next one comes after "
        "so many times as many evaluations",
    )  # fmt: skip


def put_best(storage: Storage, parameters: Parameters) -> None:
    """Keep the best parameters in the run.

    Raises:
        RunError: they could not be written.
    """
    storage.write_bytes(BEST, orjson.dumps(parameters.model_dump(), option=orjson.OPT_INDENT_2))


def get_best(storage: Storage) -> Parameters:
    """The best parameters of the run's search.

    Raises:
        RunError: there are none.
    """
    raw = storage.read_bytes(BEST)
    if raw is None:
        raise RunError(f"{storage.uri(BEST)}: the run's search left no parameters")
    return Parameters(**orjson.loads(raw))
