"""CPUs and GPUs that worker processes need: one vocabulary for stages, models and trainings."""

from __future__ import annotations

from collections.abc import Mapping
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

    def __str__(self) -> str:
        """What each process has, for messages: ``2 CPUs and 1 GPU``."""
        each = f"{self.cpus:g} CPU" + "s" * (self.cpus != 1)
        if self.gpus:
            each += f" and {self.gpus:g} GPU" + "s" * (self.gpus != 1)
        return each

    @property
    def device(self) -> str:
        """The device of each process, as torch names it."""
        return "cuda" if self.gpus else "cpu"

    @property
    def threads(self) -> int:
        """Number of threads that each process computes with."""
        return max(1, int(self.cpus))

    def fit_on(self, node: Mapping[str, float]) -> int:
        """Number of processes that a node such as ``{"CPU": 2, "GPU": 0}`` has room for."""
        needs = {"CPU": self.cpus, "GPU": self.gpus}
        # 1e-9: three shares of 0.1 are less than 0.3 in binary.
        return min(int(node.get(name, 0) / need + 1e-9) for name, need in needs.items() if need > 0)

    def of_each(self, resource: str) -> float:
        """CPUs or GPUs of one process; ``resource`` is ``CPU`` or ``GPU``."""
        return self.cpus if resource == "CPU" else self.gpus

    def in_total(self, resource: str) -> float:
        """CPUs or GPUs of all processes together."""
        return self.workers * self.of_each(resource)
