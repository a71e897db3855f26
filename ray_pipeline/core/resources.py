"""What processes need of the cluster: one vocabulary for stages, models and trainings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """Processes that run at the same time.

    Attributes:
        workers: how many there are.
        cpus: CPUs of each of them.
        gpus: GPUs of each of them; a part of one where several share it.
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
