"""The measured differences between the models of an evaluation, from ``metrics.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray_pipeline.core.numbers import finite

#: The metric that is compared by its ratio; the others by their difference.
RATIO = "perplexity"


@dataclass(frozen=True)
class ModelDifference:
    """How a figure of a model differs from that of another one, with its 95% interval."""

    model: str
    than: str
    metric: str
    value: float
    low: float | None
    high: float | None
    #: Independent questions that it was measured on.
    questions: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes that both models are equal."""
        if self.low is None or self.high is None:
            return False
        equal = 1.0 if self.metric == RATIO else 0.0
        return not self.low <= equal <= self.high

    @property
    def text(self) -> str:
        """The difference as a person reads it: ``+0.0200`` or ``0.78 ×``."""
        return _text(self.metric, self.value)

    @property
    def interval(self) -> str | None:
        """The interval as a person reads it: ``0.70 × to 0.86 ×``; None without one."""
        if self.low is None or self.high is None:
            return None
        return f"{_text(self.metric, self.low)} to {_text(self.metric, self.high)}"


def _text(metric: str, value: float) -> str:
    if metric == RATIO:
        return f"{value:.2f} ×" if 0.01 <= value < 1000 else f"{value:.2g} ×"
    digits = 2 if metric == "bleu" else 4
    return f"{value:+.{digits}f}".replace("-", "−")


def read_differences(figures: Mapping[str, Any]) -> list[ModelDifference]:
    """The differences of an evaluation; empty where it was made without them.

    Args:
        figures: of the stage, in ``metrics.json``.
    """
    stored = figures.get("differences")
    found = [_read(entry) for entry in stored] if isinstance(stored, list) else []
    return [difference for difference in found if difference is not None]


def _read(entry: Any) -> ModelDifference | None:
    if not isinstance(entry, Mapping):
        return None
    value, questions = finite(entry.get("value")), finite(entry.get("questions"))
    names = [entry.get(key) for key in ("model", "than", "metric")]
    if value is None or questions is None or not all(isinstance(name, str) for name in names):
        return None
    model, than, metric = map(str, names)
    low, high = finite(entry.get("low")), finite(entry.get("high"))
    return ModelDifference(model, than, metric, value, low, high, int(questions))


@dataclass(frozen=True)
class OverSeeds:
    """How both students' perplexities compare over several trainings of each."""

    #: Distilled over alone, of each seed.
    ratios: list[float]
    mean: float
    low: float
    high: float
    #: Share of the questions that each training after the first left out.
    left_out: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes that both are equal."""
        return not self.low <= 1 <= self.high

    @property
    def text(self) -> str:
        """The ratios, their mean and its interval as a person reads them."""
        each = ", ".join(_text(RATIO, ratio) for ratio in self.ratios)
        ends = f"{_text(RATIO, self.low)} to {_text(RATIO, self.high)}"
        return f"{each}; mean {_text(RATIO, self.mean)}, 95 % interval {ends}"


def read_seeds(figures: Mapping[str, Any]) -> OverSeeds | None:
    """The comparison over seeds of an evaluation; None where each model was trained once.

    Args:
        figures: of the stage, in ``metrics.json``.
    """
    stored = figures.get("seeds")
    if not isinstance(stored, Mapping) or not isinstance(stored.get("ratios"), list):
        return None
    ratios = [ratio for ratio in map(finite, stored["ratios"]) if ratio is not None]
    mean, low, high = (finite(stored.get(key)) for key in ("mean", "low", "high"))
    if mean is None or low is None or high is None or len(ratios) != len(stored["ratios"]):
        return None
    return OverSeeds(ratios, mean, low, high, finite(stored.get("left_out")) or 0.0)
