"""Successive halving (ASHA): trials that do worse than others did at the same point are stopped."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from ray_pipeline.tune.parameters import PruningConfig
from ray_pipeline.tune.trials import TrialRecord

#: What trials report: the lowest validation loss so far.
LOSS = "validation_loss"
#: Ray Tune's own count of a trial's reports, from 1: here, of its evaluations.
_EVALUATION = "training_iteration"
#: More evaluations than a trial has: how long a trial lasts, its loop says.
_NEVER = 10**9


class Pruning(ASHAScheduler):
    """ASHA that lets trial 0 finish, with which the best is compared, and that can be told more.

    Args:
        config: when trials are stopped.
    """

    def __init__(self, config: PruningConfig) -> None:
        super().__init__(
            time_attr=_EVALUATION,
            metric=LOSS,
            mode="min",
            max_t=_NEVER,
            grace_period=config.grace,
            reduction_factor=config.reduction,
        )

    def recall(self, record: TrialRecord) -> None:
        """Count a trial of an earlier attempt, as if it had reported just now."""
        # All that ASHA looks at of a trial is its id.
        trial: Any = SimpleNamespace(
            trial_id=f"recalled-{record.number}", config={"number": record.number}
        )
        controller: Any = None
        result: dict[str, Any] = {}
        self.on_trial_add(controller, trial)
        for evaluation, score in enumerate(record.scores, start=1):
            result = {_EVALUATION: evaluation, LOSS: score}
            self.on_trial_result(controller, trial, result)
        self.on_trial_complete(controller, trial, result)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether a trial goes on."""
        decision = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if trial.config["number"] == 0 else decision
