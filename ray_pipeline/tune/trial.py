"""One training under one set of parameters: what Ray Tune runs in a process of its own."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from ray import tune

from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.train.job import Bench, TrainingJob
from ray_pipeline.train.loop import Diverged, Loop
from ray_pipeline.tune.parameters import Parameters
from ray_pipeline.tune.pruning import LOSS
from ray_pipeline.tune.trials import WORST


class Trial(tune.Trainable):
    """Trains from the student's first weights, and reports each evaluation.

    Ray Tune gives a process one trial after another: model, rows and teacher are loaded once.
    Nothing is nested in it, so a trial can be stopped between two evaluations without leaving
    anything behind.
    """

    def setup(  # type: ignore[override]  # tune.with_parameters gives the others
        self, config: dict[str, Any], job: TrainingJob, device: str, threads: int
    ) -> None:
        """Take on the first trial."""
        torch.set_num_threads(threads)
        self._job = job
        self._device = device
        self._bench: Bench | None = None
        self._first_weights: dict[str, torch.Tensor] = {}
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take on another trial."""
        names = Parameters.model_fields
        self._parameters = Parameters(**{name: new_config[name] for name in names})
        self._loop: Loop | None = None  # and its optimizer, before the next one is made
        self._evaluations: Iterator[dict[str, float]] = iter(())
        self._seconds = 0.0
        return True

    def step(self) -> dict[str, Any]:
        """Train up to the next evaluation.

        Returns:
            `LOSS`, the lowest so far; ``loss`` of this evaluation after ``step`` steps and so many
            ``seconds``, loading left out; whether it was the last one (``ended``; ``done`` is set
            by Ray Tune too, where it stops a trial).
            Or what is wrong whatever the parameters (``refused``), so that no trial could work.
        """
        try:
            return self._evaluated()
        except Diverged:
            return {LOSS: WORST, "diverged": True, "seconds": self._seconds, "done": True}
        except (UserError, RunError) as error:
            return {LOSS: WORST, "refused": (type(error).__name__, str(error)), "done": True}

    def _evaluated(self) -> dict[str, Any]:
        loop = self._loop or self._begin()
        began = time.perf_counter()
        evaluation = next(self._evaluations)
        self._seconds += time.perf_counter() - began
        loss = evaluation["validation_loss"]
        if not math.isfinite(loss):
            raise Diverged(f"validation loss {loss}")
        ended = loop.finished
        return {
            LOSS: loop.progress.best_loss,
            "loss": loss,
            "step": evaluation["step"],
            "seconds": self._seconds,
            "ended": ended,
            "done": ended,
        }

    def _begin(self) -> Loop:
        """The loop of this trial, on the student as it was before any."""
        if self._bench is None:
            self._bench = Bench.load(self._job, self._device)
            if self._bench.validation is None:
                raise UserError(
                    "there are no validation rows, by which trials are compared: raise "
                    "stages.split.validation"
                )
            self._first_weights = copy.deepcopy(self._bench.model.state_dict())
        model = self._bench.model
        model.load_state_dict(self._first_weights)
        model.zero_grad(set_to_none=True)  # a diverged trial leaves some
        parameters = self._parameters
        self._loop = self._bench.loop(parameters.objective, parameters.loop(self._job.loop))
        self._evaluations = self._loop.evaluations()
        return self._loop
