"""What a search tries next, and which trials it stops early. Both resume where a search was killed.

TPE (Bergstra et al. 2011, by Optuna) proposes, successive halving (ASHA, by Ray Tune) prunes. A
search that is started again replays its finished trials into both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from ray_pipeline.tune.trials import LOSS, Parameters, PruningConfig, Space, TrialRecord

#: Ray Tune's own count of a trial's reports, from 1: here, of its evaluations.
_EVALUATION = "training_iteration"
#: More evaluations than a trial has: its training loop decides when it ends.
_NEVER = 10**9


class SeededTPE(BaseSampler):
    """TPE whose random numbers depend on the seed and the trial's number, and on nothing else.

    Optuna's TPE draws from one stream: a search that is started again would draw the same numbers
    as at its beginning, and try what it tried already. With a stream for each trial it continues as
    if it had not been interrupted; where one trial runs at a time, with the very same trials.

    Args:
        seed: of all trials, 0 or more.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._tpe = TPESampler(seed=seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Seed TPE for a trial: the calls that follow are about it."""
        numbers = np.random.SeedSequence([self._seed, trial.number])
        self._tpe = TPESampler(seed=int(numbers.generate_state(1)[0]))

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """See `TPESampler`."""
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See `TPESampler`."""
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """See `TPESampler`."""
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)


class Proposals(OptunaSearch):
    """TPE's proposals, each with the number of its trial.

    Args:
        first: parameters of trial 0.
        space: where to look.
        seed: of the proposals.
        records: the trials that have finished.
    """

    def __init__(
        self, first: Parameters, space: Space, seed: int, records: Sequence[TrialRecord]
    ) -> None:
        recorded = {record.number: record for record in records}
        self._first_waits = 0 not in recorded
        self._number = max(recorded, default=0) + 1
        super().__init__(
            points_to_evaluate=[first.model_dump()] if self._first_waits else [],
            space=_distributions(space),
            metric=LOSS,
            mode="min",
            sampler=SeededTPE(seed),
        )
        for number in range(1 if self._first_waits else 0, self._number):
            if (record := recorded.get(number)) is not None:
                self.add_evaluated_point(record.parameters.model_dump(), record.score)
            else:
                # Lost with its process. Its number stays taken: under that number TPE would propose
                # again what finished after it.
                self.add_evaluated_point(first.model_dump(), 0.0, error=True)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial's parameters and ``number``."""
        proposed = super().suggest(trial_id)
        if proposed is None:
            return None
        if self._first_waits:
            self._first_waits = False
            return {**proposed, "number": 0}
        self._number += 1
        return {**proposed, "number": self._number - 1}


def _distributions(space: Space) -> dict[str, BaseDistribution]:
    """The search space in Optuna's terms."""
    ranges = {name: getattr(space, name) for name in Space.model_fields}
    return {
        name: FloatDistribution(limits.low, limits.high, log=name == "learning_rate")
        for name, limits in ranges.items()
    }


class Pruning(ASHAScheduler):
    """ASHA that never stops trial 0, which the best trial is compared with.

    Args:
        config: when trials are stopped.
        records: the trials that have finished, which count as if they had reported just now.
    """

    def __init__(self, config: PruningConfig, records: Sequence[TrialRecord] = ()) -> None:
        super().__init__(
            time_attr=_EVALUATION,
            metric=LOSS,
            mode="min",
            max_t=_NEVER,
            grace_period=config.grace,
            reduction_factor=config.reduction,
        )
        for record in records:
            self._replay(record)

    def _replay(self, record: TrialRecord) -> None:
        # All that ASHA reads of a trial is its id.
        trial: Any = SimpleNamespace(
            trial_id=f"recorded-{record.number}", config={"number": record.number}
        )
        controller: Any = None
        result: dict[str, Any] = {}
        self.on_trial_add(controller, trial)
        for evaluation, score in enumerate(record.scores, start=1):
            result = {_EVALUATION: evaluation, LOSS: score}
            self.on_trial_result(controller, trial, result)
        self.on_trial_complete(controller, trial, result)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide whether a trial continues."""
        decision = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if trial.config["number"] == 0 else decision


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep Optuna from writing logs of its own."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
