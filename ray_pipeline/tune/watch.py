"""Watches trials from the run's own process: what went wrong, and an end where nothing moves."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.tune.workers import TrialWorkers

if TYPE_CHECKING:
    from ray.tune.experiment import Trial as TuneTrial

#: Seconds in which some trial must have started, on a cluster that may have to grow first; and
#: where there is room for it.
_START_SECONDS, _STALL_SECONDS = 900.0, 60.0


class Broken(RunError):
    """This attempt at the trials cannot go on; another one might."""


class Watch(tune.Callback):
    """Raises where trials cannot go on.

    Ray Tune swallows what a callback raises when it is told of a trial, and passes on what it
    raises at the end of a step, after stopping all trials. So news is collected first, and dealt
    with at the end of the same step.

    A trial's result may say ``refused``: the name of an error's type, and its message.

    Args:
        workers: of the trials.
        say: takes a line of news.
    """

    def __init__(self, workers: TrialWorkers, say: Callable[[str], None]) -> None:
        self._workers = workers
        self._say = say
        self._error: Exception | None = None
        self._heard = time.monotonic()

    def __reduce__(self) -> Any:
        """Ray Tune pickles what it is given, for a restore that is not used here."""
        return tune.Callback, ()

    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """A trial has its process."""
        self._heard = time.monotonic()

    def on_trial_result(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        """A trial has evaluated, or said why it cannot."""
        self._heard = time.monotonic()
        if "refused" in result:
            kind, message = result["refused"]
            self._error = UserError(message) if kind == UserError.__name__ else RunError(message)

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Ray Tune gives a trial up: not for its parameters, those that do not work diverge."""
        self._error = Broken(f"{self.named(trial)} failed: {reason(trial)}")

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Deal with what was told since the last step.

        Raises:
            UserError: rows or models do not fit the configuration.
            Broken: a trial was given up, or none starts although there is room.
            RunError: the trials cannot go on.
        """
        if self._error is not None:
            raise self._error
        self._check_silence(trials)

    def named(self, trial: TuneTrial) -> str:
        """A trial as the user knows it."""
        return f"trial {trial.trial_id}"

    def _check_silence(self, trials: Sequence[TuneTrial]) -> None:
        silent, stage = time.monotonic() - self._heard, f"stages.{self._workers.stage}"
        running = any(trial.status == "RUNNING" for trial in trials)
        if running and silent > self._workers.silence:
            raise RunError(
                f"no trial has reported for {silent:.0f} s. Where an evaluation takes longer than "
                f"{stage}.silence, raise that"
            )
        if running or silent <= min(_START_SECONDS, _STALL_SECONDS):
            return
        each = self._workers.each
        free, total = ray.available_resources(), ray.cluster_resources()
        if (
            free.get("CPU", 0) >= self._workers.each.cpus
            and free.get("GPU", 0) >= self._workers.each.gpus
        ):
            raise Broken(f"no trial was started for {silent:.0f} s, though there was room for one")
        if silent > _START_SECONDS:
            raise RunError(
                f"no trial could be started for {silent:.0f} s. One needs {each.cpus:g} "
                f"CPUs and {each.gpus:g} GPUs; of {total.get('CPU', 0):g} CPUs and "
                f"{total.get('GPU', 0):g} GPUs, {free.get('CPU', 0):g} and {free.get('GPU', 0):g} "
                f"are free: lower {stage}.num_cpus or num_gpus, or wait for the other work"
            )


def reason(trial: TuneTrial) -> str:
    """The last line of what a trial raised."""
    path = trial.error_file
    text = Path(path).read_text(errors="replace").strip() if path and Path(path).exists() else ""
    return (text or "its process died").splitlines()[-1]
