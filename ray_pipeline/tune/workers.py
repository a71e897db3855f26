"""The processes that Ray Tune runs trials in: how many fit, and what they need."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ray_pipeline.core.errors import UserError

_NAMES = ("CPU", "GPU")


@dataclass(frozen=True)
class TrialWorkers:
    """Processes for trials.

    Attributes:
        cpus: of each; threads that it computes with.
        gpus: of each; several may share one.
        at_most: that run at the same time; None: as many as the cluster holds now.
        silence: seconds without a word from any of them after which the search is given up.
        stage: whose configuration says so.
    """

    cpus: float = 1
    gpus: float = 0
    at_most: int | None = None
    silence: float = 3600
    stage: str = "search"

    def on(self, nodes: Sequence[Mapping[str, float]]) -> int:
        """How many run on nodes like ``{"CPU": 2, "GPU": 0}`` at the same time.

        Raises:
            UserError: not even one.
        """
        number = sum(self._on_one(node) for node in nodes)
        if self.at_most is not None:  # the cluster may grow: what does not fit yet waits
            return self.at_most
        if number == 0:
            largest = {name: max((n.get(name, 0) for n in nodes), default=0) for name in _NAMES}
            raise UserError(
                f"a trial needs {self.cpus:g} CPUs and {self.gpus:g} GPUs on one node; the largest "
                f"of {len(nodes)} nodes has {largest['CPU']:g} CPUs and {largest['GPU']:g} GPUs: "
                "lower num_cpus or num_gpus, or set concurrency where the cluster adds nodes"
            )
        return number

    def __str__(self) -> str:
        """For a line of news: what each has."""
        each = f"{self.cpus:g} CPU" + "s" * (self.cpus != 1)
        if self.gpus:
            each += f" and {self.gpus:g} GPU" + "s" * (self.gpus != 1)
        return each

    def _on_one(self, node: Mapping[str, float]) -> int:
        needs = {"CPU": self.cpus, "GPU": self.gpus}
        # 1e-9: three shares of 0.1 are less than 0.3 in binary.
        return min(int(node.get(name, 0) / need + 1e-9) for name, need in needs.items() if need > 0)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let Ctrl-C reach the run, and have Ray Tune write no logs of its own."""
    wanted = {"TUNE_DISABLE_SIGINT_HANDLER": "1", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
