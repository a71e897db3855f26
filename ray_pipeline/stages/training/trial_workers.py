"""The processes of a stage that trains several models at the same time under Ray Tune."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import AliasChoices, Field

from ray_pipeline.core.config import Execution
from ray_pipeline.core.resources import Resources
from ray_pipeline.stage import StageConfig

if TYPE_CHECKING:
    from ray_pipeline.tune.runner import TrialWorkers


class TrialWorkersConfig(StageConfig):
    """What each of the trainings has, and how many there are at the same time."""

    num_cpus: Annotated[float, Execution] = Field(1, gt=0, description="CPUs reserved per training")
    num_gpus: Annotated[float | None, Execution] = Field(
        None,
        ge=0,
        description="GPUs reserved per training; fractions are allowed; null: 1 if this "
        "machine has a GPU, else 0",
    )
    concurrency: Annotated[int | None, Execution] = Field(
        None,
        ge=1,
        description="maximum number of trainings at the same time; null: limited only by the "
        "resources of the cluster",
    )
    stall_timeout: Annotated[float, Execution] = Field(
        3600,
        gt=0,
        validation_alias=AliasChoices("stall_timeout", "silence"),  # the old name of the key
        description="fail if no training reports progress for this long, in seconds",
    )

    def resources(self) -> Resources:
        """Those of one training."""
        return Resources(1, self.num_cpus, self.gpus)

    @property
    def gpus(self) -> float:
        """GPUs of each, as configured or as this machine has them."""
        if self.num_gpus is not None:
            return float(self.num_gpus)
        import torch

        return float(torch.cuda.is_available())

    def trial_workers(self, stage: str) -> TrialWorkers:
        """As Ray Tune is asked for them; ``stage`` is whose configuration this is."""
        from ray_pipeline.tune.runner import TrialWorkers

        return TrialWorkers(self.num_cpus, self.gpus, self.concurrency, self.stall_timeout, stage)
