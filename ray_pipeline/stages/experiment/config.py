"""How the models of an experiment are trained: on each subset, in each mode, with which seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ray_pipeline.core.config import Execution, Section
from ray_pipeline.evaluate.experiment.cells import Mode
from ray_pipeline.rundir.layout import CONTROL
from ray_pipeline.stages.training.trial_workers import TrialWorkersConfig
from ray_pipeline.train.batches import BatchConfig
from ray_pipeline.train.job import WorkersConfig
from ray_pipeline.train.loop import UpdateConfig
from ray_pipeline.train.scratch import ScratchConfig


class SubsetSettings(Section):
    """How a subset and its control are trained; null: as in the original experiment."""

    epochs: int | None = Field(None, ge=1, description="passes over the subset's rows")
    learning_rate: float | None = Field(None, gt=0, description="peak learning rate")
    evaluate_every: int | None = Field(
        None, ge=1, description="steps between evaluations; null: see evaluations"
    )


#: Rows, epochs and learning rate of the original experiment's subsets by name. A subset of another
#: name is trained like the one with the nearest number of rows, by ratio.
_ORIGINAL = {
    "ultra_high_10k": (10_000, 10, 1e-4),
    "high_100k": (100_000, 3, 2e-4),
    "medium_1m": (1_000_000, 1, 2e-4),
}


class CellLoopConfig(UpdateConfig):
    """How each step changes the weights, in every cell. Defaults follow the original experiment."""

    schedule: Literal["cosine", "linear", "constant"] = Field(
        "linear", description="shape of the learning rate after the warm-up"
    )
    warmup: float = Field(
        1000,
        ge=0,
        description="warm-up steps, at most a third of all steps; below 1: a share of all steps",
    )


class CellBatchConfig(BatchConfig):
    """Sizes of steps and micro-batches."""

    step_rows: int | None = Field(
        32,
        ge=1,
        description="rows per update; the original experiment's 8 per batch x 4 accumulated",
    )


class TrainSubsetsConfig(TrialWorkersConfig):
    """Configuration of `TrainSubsets`."""

    model: ScratchConfig = Field(
        ScratchConfig(), description="architecture that is trained from scratch in every cell"
    )
    modes: list[Mode] = Field(
        ["epochs", "tokens"],
        min_length=1,
        description="epochs: each subset is trained for its own number of epochs; tokens: every "
        "subset is trained on the same number of tokens",
    )
    seeds: list[int] = Field(
        [1, 2, 3], min_length=1, description="every subset is trained once with each seed"
    )
    learning_rates: list[float] | None = Field(
        None,
        min_length=1,
        description="every subset is trained with each of them; null: with the one in settings",
    )
    settings: dict[str, SubsetSettings] = Field(
        {}, description="epochs and learning rate by the name of the subset"
    )
    budget_tokens: int | None = Field(
        None,
        ge=1,
        description="tokens that every training of the mode tokens sees; null: those that the "
        "smallest subset sees in its epochs",
    )
    evaluations: int = Field(
        12, ge=1, description="evaluations of each training, evenly spread over its steps"
    )
    loop: CellLoopConfig = Field(
        CellLoopConfig(), description="how each step changes the weights, in every cell"
    )
    batches: CellBatchConfig = Field(
        CellBatchConfig(), description="sizes of steps and micro-batches"
    )
    keep_models: Literal["first_seed", "all", "none"] = Field(
        "first_seed", description="trained models that are kept in the run directory"
    )
    workers: Annotated[WorkersConfig, Execution] = Field(
        WorkersConfig(),
        description="processes of each training; with several, cells are trained one after another",
    )
    gradient_checkpointing: Annotated[bool, Execution] = Field(
        False,
        description="recompute activations: less memory for about a third more work; on in the "
        "original experiment",
    )
    flops_per_second: Annotated[float | None, Execution] = Field(
        None,
        gt=0,
        description="FLOP/s that one GPU achieves in training, for the estimate of "
        "GPU-hours; null: no estimate",
    )

    @field_validator("modes", "seeds", "learning_rates")
    @classmethod
    def _once(cls, values: list[Any] | None) -> list[Any] | None:
        if values is not None and len(set(values)) < len(values):
            raise ValueError("names something twice")
        return values

    @field_validator("learning_rates")
    @classmethod
    def _positive(cls, values: list[float] | None) -> list[float] | None:
        if values is not None and min(values) <= 0:
            raise ValueError("a learning rate must be above 0")
        return values

    def settings_of(self, subset: str, rows: int) -> SubsetSettings:
        """A subset's settings: as configured, else those of the original experiment."""

        def ratio(original: tuple[int, int, float]) -> float:
            return max(original[0] / rows, rows / original[0])

        nearest = min(_ORIGINAL.values(), key=ratio)
        _, epochs, rate = _ORIGINAL.get(subset, nearest)
        given = self.settings.get(subset, SubsetSettings())
        return SubsetSettings(
            epochs=given.epochs or epochs,
            learning_rate=given.learning_rate or rate,
            evaluate_every=given.evaluate_every,
        )

    def rates_of(self, subset: str, rows: int) -> list[float]:
        """The learning rates that a subset is trained with."""
        rate = self.settings_of(subset, rows).learning_rate
        assert rate is not None
        return self.learning_rates or [rate]

    def budget(self, parts: Mapping[str, tuple[int, int]]) -> int:
        """Tokens of a cell of the mode ``tokens``.

        Args:
            parts: rows and tokens of subsets and controls by name.
        """
        if self.budget_tokens is not None:
            return self.budget_tokens
        own = {name: part for name, part in parts.items() if not name.endswith(CONTROL)}
        name, (rows, tokens) = min(own.items(), key=lambda item: (item[1], item[0]))
        return (self.settings_of(name, rows).epochs or 1) * tokens
