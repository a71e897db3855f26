"""The processes that Ray Tune runs trials in: how many fit, and what they need."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.resources import Resources

_NAMES = ("CPU", "GPU")


@dataclass(frozen=True)
class TrialWorkers:
    """Processes for trials.

    Attributes:
        each: what each of them has. It computes with a thread a CPU; several may share a GPU.
        at_most: that run at the same time; None: as many as the cluster holds now.
        silence: seconds without a word from any of them after which the search is given up.
        stage: whose configuration says so.
    """

    each: Resources = field(default_factory=Resources)
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
                f"a trial needs {self.each.cpus:g} CPUs and {self.each.gpus:g} GPUs on one node; "
                f"the largest of {len(nodes)} nodes has {largest['CPU']:g} CPUs and "
                f"{largest['GPU']:g} GPUs: lower num_cpus or num_gpus, or set concurrency where "
                f"the cluster adds nodes"
            )
        return number

    def __str__(self) -> str:
        """For a line of news: what each has."""
        cpus, gpus = self.each.cpus, self.each.gpus
        text = f"{cpus:g} CPU" + "s" * (cpus != 1)
        if gpus:
            text += f" and {gpus:g} GPU" + "s" * (gpus != 1)
        return text

    def _on_one(self, node: Mapping[str, float]) -> int:
        needs = {name: self.each.of_each(name) for name in _NAMES}
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
