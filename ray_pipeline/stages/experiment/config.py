"""How the models of an experiment are trained: on each subset, in each mode, with which seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ray_pipeline.core.config import Execution, Section
from ray_pipeline.core.shares import StepsOrShare
from ray_pipeline.evaluate.experiment.cells import Mode
from ray_pipeline.rundir.layout import is_ordering, subset_and_draw
from ray_pipeline.stages.training.trial_workers import TrialWorkersConfig
from ray_pipeline.train.batches import BatchConfig, Budget
from ray_pipeline.train.job import WorkersConfig
from ray_pipeline.train.loop import UpdateConfig
from ray_pipeline.train.scratch import ScratchConfig


class SubsetSettings(Section):
    """How a subset and its control are trained; null: as in the original experiment."""

    epochs: int | None = Field(
        None,
        ge=1,
        description="number of epochs over the subset's rows; null: as in the original experiment",
    )
    learning_rate: float | None = Field(
        None, gt=0, description="peak learning rate; null: as in the original experiment"
    )
    evaluate_every: int | None = Field(
        None, ge=1, description="steps between evaluations; null: derived from `evaluations`"
    )


#: Rows, epochs and learning rate of the original experiment's subsets by name. A subset of another
#: name is trained like the one with the nearest number of rows, by ratio.
_ORIGINAL = {
    "ultra_high_10k": (10_000, 10, 1e-4),
    "high_100k": (100_000, 3, 2e-4),
    "medium_1m": (1_000_000, 1, 2e-4),
}


#: Number of rows and tokens of each subset and control, by name.
Parts = Mapping[str, tuple[int, int]]


class CellLoopConfig(UpdateConfig):
    """How each step changes the weights, in every cell. Defaults follow the original experiment."""

    schedule: Literal["cosine", "linear", "constant"] = Field(
        "linear", description="learning-rate schedule after the warm-up"
    )
    warmup: StepsOrShare = Field(
        1000,
        description="number of warm-up steps, at most a third of all steps; or the share of all "
        'steps: "5%" or 0.05',
    )


class CellBatchConfig(BatchConfig):
    """Sizes of steps and micro-batches."""

    step_rows: int | None = Field(
        32,
        ge=1,
        description="rows per weight update; the default is the original experiment's batch "
        "size of 8 times 4 accumulation steps. In the mode `tokens`: this number times the mean "
        "tokens of the smallest subset's rows is the tokens per weight update of every training",
    )


class TrainSubsetsConfig(TrialWorkersConfig):
    """Configuration of `TrainSubsets`."""

    model: ScratchConfig = Field(
        ScratchConfig(),
        description="architecture of the model that is trained from scratch on every subset",
    )
    modes: list[Mode] = Field(
        ["epochs", "tokens"],
        min_length=1,
        description="how long to train; epochs: each subset for its own number of epochs; "
        "tokens: every subset on the same number of tokens, in the same number of weight updates, "
        "with the same learning-rate schedule",
    )
    seeds: list[int] = Field(
        [1, 2, 3], min_length=1, description="random seeds; every subset is trained once with each"
    )
    learning_rates: list[float] | None = Field(
        None,
        min_length=1,
        description="learning rates; every subset is trained with each of them; null: only "
        "the one in `settings`",
    )
    settings: dict[str, SubsetSettings] = Field(
        {},
        description="epochs and learning rate of each subset, by its name; in the mode `tokens` "
        "the settings of the smallest subset hold for all",
    )
    budget_tokens: int | None = Field(
        None,
        ge=1,
        description="tokens that every training in the mode `tokens` processes; null: the "
        "number of tokens that the smallest subset has in all its epochs",
    )
    evaluations: int = Field(
        12,
        ge=1,
        description="number of evaluations during each training, evenly spread over its steps",
    )
    loop: CellLoopConfig = Field(
        CellLoopConfig(), description="optimiser and learning-rate schedule of every training"
    )
    batches: CellBatchConfig = Field(
        CellBatchConfig(),
        description="numbers of rows and tokens per weight update and per micro-batch",
    )
    keep_models: Literal["first_seed", "all", "none"] = Field(
        "first_seed",
        description="which trained models are kept in the run directory; first_seed: of every "
        "subset and its first random control",
    )
    workers: Annotated[WorkersConfig, Execution] = Field(
        WorkersConfig(),
        description="worker processes of each training; with more than one, the trainings "
        "run one after another",
    )
    gradient_checkpointing: Annotated[bool, Execution] = Field(
        False,
        description="recompute activations in the backward pass: less memory for about a "
        "third more computation; on in the original experiment",
    )
    flops_per_second: Annotated[float | None, Execution] = Field(
        None,
        gt=0,
        description="FLOP/s that one GPU achieves in training, to estimate GPU-hours; null: "
        "no estimate",
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
        """A subset's settings: as configured, with defaults from the original experiment."""

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

    def settings_in(self, mode: str, subset: str, parts: Parts) -> SubsetSettings:
        """A subset's settings in a mode: in ``tokens``, those of the smallest subset.

        Args:
            mode: ``epochs`` or ``tokens``.
            subset: its name, not that of a control.
            parts: sizes of all subsets.
        """
        name = _smallest(parts) if mode == "tokens" else subset
        return self.settings_of(name, parts[name][0])

    def modes_of(self, name: str) -> list[Mode]:
        """The modes in which a subset, control or ordering is trained on."""
        return ["tokens"] if is_ordering(name) else list(self.modes)

    def rates(self, settings: SubsetSettings) -> list[float]:
        """The learning rates that a subset with these settings is trained with."""
        assert settings.learning_rate is not None
        return self.learning_rates or [settings.learning_rate]

    def budget(self, parts: Parts, longest: int = 0) -> Budget:
        """Tokens and steps of every training of the mode ``tokens``.

        Args:
            parts: sizes of all subsets.
            longest: tokens of the longest row in any of them.
        """
        name = _smallest(parts)
        rows, tokens = parts[name]
        whole = self.budget_tokens or (self.settings_of(name, rows).epochs or 1) * tokens
        batches = self.batches
        step_tokens = batches.step_tokens or (batches.step_rows or 1) * tokens / max(1, rows)
        return Budget.of(whole, max(1.0, step_tokens), longest)


def _smallest(parts: Parts) -> str:
    """The subset with the fewest rows, controls aside."""
    own = {
        name: part
        for name, part in parts.items()
        if not subset_and_draw(name)[1] and not is_ordering(name)
    }
    return min(own, key=lambda name: (own[name], name))
