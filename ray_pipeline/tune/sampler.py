"""Optuna's TPE, repeatable from any trial on."""

from __future__ import annotations

from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial


class SeededTPE(BaseSampler):
    """TPE whose random numbers depend on the seed and the trial's number, and on nothing else.

    TPE draws from one stream. A search that goes on after a kill would begin that stream anew, and
    try what it tried already. With numbers of its own for each trial it goes on as if nothing had
    happened; one trial at a time, to the very same trials.

    Args:
        seed: of all trials, 0 or more.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._tpe = TPESampler(seed=seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Begin a trial: the calls up to the next one are about it."""
        numbers = np.random.SeedSequence([self._seed, trial.number])
        self._tpe = TPESampler(seed=int(numbers.generate_state(1)[0]))

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """As TPE does."""
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As TPE does."""
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """As TPE does."""
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)
