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
    """Resources of each training, and the number of trainings at the same time."""

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
        """The resources of one training."""
        return Resources(1, self.num_cpus, self.gpus)

    @property
    def gpus(self) -> float:
        """GPUs per training: as configured, else 1 if this machine has a GPU."""
        if self.num_gpus is not None:
            return float(self.num_gpus)
        import torch

        return float(torch.cuda.is_available())

    def trial_workers(self, stage: str) -> TrialWorkers:
        """The workers for Ray Tune; ``stage`` is the stage that this configuration belongs to."""
        from ray_pipeline.tune.runner import TrialWorkers

        return TrialWorkers(self.resources(), self.concurrency, self.stall_timeout, stage)
