"""CPUs and GPUs that worker processes need: one vocabulary for stages, models and trainings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """The resources of worker processes that run at the same time.

    Attributes:
        workers: number of processes.
        cpus: CPUs of each process.
        gpus: GPUs of each process; a fraction where several share one.
    """

    workers: int = 1
    cpus: float = 1
    gpus: float = 0

    def of_each(self, resource: str) -> float:
        """CPUs or GPUs of one process; ``resource`` is ``CPU`` or ``GPU``."""
        return self.cpus if resource == "CPU" else self.gpus

    def in_total(self, resource: str) -> float:
        """CPUs or GPUs of all processes together."""
        return self.workers * self.of_each(resource)
