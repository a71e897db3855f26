"""How the models of an experiment are trained: on each subset, in each mode, with which seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ray_pipeline.core.config import Execution, Section
from ray_pipeline.evaluate.experiment.cells import Mode
from ray_pipeline.models.device import Precision
from ray_pipeline.rundir.layout import CONTROL
from ray_pipeline.stages.training.trial_workers import TrialWorkersConfig
from ray_pipeline.train.batches import BatchConfig
from ray_pipeline.train.job import WorkersConfig
from ray_pipeline.train.scratch import ScratchConfig


class SubsetSettings(Section):
    """How a subset and its control are trained; null: as the seed does."""

    epochs: int | None = Field(None, ge=1)
    learning_rate: float | None = Field(None, gt=0)
    evaluate_every: int | None = Field(
        None, ge=1, description="steps, in place of so many evaluations"
    )


#: The seed's epochs and learning rate by the subset's name; of others by their rows: like the one
#: whose size is nearest by ratio.
_SEED = {
    "ultra_high_10k": (10_000, 10, 1e-4),
    "high_100k": (100_000, 3, 2e-4),
    "medium_1m": (1_000_000, 1, 2e-4),
}


class CellLoopConfig(Section):
    """How the weights of every cell are moved; the seed's values."""

    schedule: Literal["cosine", "linear", "constant"] = "linear"
    warmup: float = Field(
        1000, ge=0, description="steps, but a third of all at most; below 1: share of all steps"
    )
    weight_decay: float = Field(0.01, ge=0, description="of matrices, not of biases and norms")
    clip_norm: float | None = Field(1.0, gt=0, description="largest norm of a step's gradient")
    precision: Precision = Field("auto", description="of the forward pass; see stages.distil.loop")
    checkpoint_every: Annotated[int | None, Execution] = Field(
        None, ge=1, description="steps; null: at evaluations"
    )


class CellBatchConfig(BatchConfig):
    """Sizes of steps and micro-batches."""

    step_rows: int | None = Field(32, ge=1, description="rows an update; the seed's 8 x 4")


class TrainSubsetsConfig(TrialWorkersConfig):
    """Configuration of `TrainSubsets`."""

    model: ScratchConfig = ScratchConfig()
    modes: list[Mode] = Field(
        ["epochs", "tokens"],
        min_length=1,
        description="epochs: as long as the settings say; tokens: as many tokens for every subset",
    )
    seeds: list[int] = Field([1, 2, 3], min_length=1)
    learning_rates: list[float] | None = Field(
        None, min_length=1, description="all are tried on every subset; null: the settings'"
    )
    settings: dict[str, SubsetSettings] = Field({}, description="by the name of the subset")
    budget_tokens: int | None = Field(
        None, ge=1, description="of the mode tokens; null: what the smallest subset sees in epochs"
    )
    evaluations: int = Field(12, ge=1, description="of a training, evenly spread")
    loop: CellLoopConfig = CellLoopConfig()
    batches: CellBatchConfig = CellBatchConfig()
    keep_models: Literal["first_seed", "all", "none"] = "first_seed"
    workers: Annotated[WorkersConfig, Execution] = Field(
        WorkersConfig(), description="of a cell; several: one cell after another"
    )
    gradient_checkpointing: Annotated[bool, Execution] = Field(
        False, description="less memory for about a third more work; the seed has it on"
    )
    flops_per_second: Annotated[float | None, Execution] = Field(
        None, gt=0, description="of one GPU in training, for the estimate of GPU-hours"
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
        """A subset's settings, complete: as configured, else the seed's."""
        nearest = min(_SEED.values(), key=lambda one: max(one[0] / rows, rows / one[0]))
        _, epochs, rate = _SEED.get(subset, nearest)
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
