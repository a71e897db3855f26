"""Watches a search from the run's own process: records, news, and an end where nothing moves."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import ray
from ray import tune

from ray_pipeline.errors import RunError, UserError
from ray_pipeline.tune.parameters import Parameters
from ray_pipeline.tune.trials import TrialRecord, Trials, best

if TYPE_CHECKING:
    from ray.tune.experiment import Trial as TuneTrial

#: Seconds in which some trial must have started, on a cluster that may have to grow first; and
#: where there is room for it.
_START_SECONDS, _STALL_SECONDS = 900.0, 60.0


class Broken(RunError):
    """This attempt at the search cannot go on; another one might."""


class Workers(Protocol):
    """What of `search.TrialWorkers` is needed here."""

    @property
    def cpus(self) -> float: ...
    @property
    def gpus(self) -> float: ...
    @property
    def silence(self) -> float: ...


class Observer(tune.Callback):
    """Writes finished trials down, tells the user, and raises where the search cannot go on.

    Ray Tune swallows what a callback raises when it is told of a trial, and passes on what it
    raises at the end of a step, after stopping all trials. So news is collected first, and dealt
    with at the end of the same step.

    Args:
        trials: the record.
        number: trials that there are to be, recorded ones included.
        workers: of the trials.
        say: takes a line of news.
    """

    def __init__(
        self, trials: Trials, number: int, workers: Workers, say: Callable[[str], None]
    ) -> None:
        self._trials = trials
        self._number = number
        self._workers = workers
        self._say = say
        self._losses: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self._ended: list[TrialRecord] = []
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
        elif "diverged" not in result:
            self._losses[trial.trial_id].append((result["step"], result["loss"]))

    def on_trial_recover(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """A trial lost its process and begins again in another."""
        self._losses.pop(trial.trial_id, None)
        self._say(f"  trial {trial.config['number']} was lost and begins again: {_reason(trial)}")

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Ray Tune gives a trial up: not for its parameters, those that do not work diverge."""
        self._error = Broken(f"trial {trial.config['number']} failed: {_reason(trial)}")

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """A trial is trained to its end, pruned or diverged."""
        last = trial.last_result
        if self._error is None and "refused" not in last:
            parameters = {name: trial.config[name] for name in Parameters.model_fields}
            ended = "finished" if last.get("ended") else "pruned"
            self._ended.append(
                TrialRecord(
                    number=trial.config["number"],
                    status="diverged" if "diverged" in last else ended,  # type: ignore[arg-type]
                    parameters=Parameters(**parameters),
                    losses=tuple(self._losses.pop(trial.trial_id, [])),
                    seconds=round(last["seconds"], 3),
                )
            )

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Deal with what was told since the last step.

        Raises:
            UserError: rows or models do not fit the configuration.
            Broken: a trial was given up, or none starts although there is room.
            RunError: the search cannot go on.
        """
        while self._ended:
            record = self._ended.pop(0)
            self._trials.add(record)
            self._tell(record)
        if self._error is not None:
            raise self._error
        self._check_silence(trials)

    def _tell(self, record: TrialRecord) -> None:
        loss = "" if record.loss is None else f", validation loss {record.loss:.4f}"
        chosen = best(self._trials.records)
        lowest = "" if chosen is None else f"; the best is {chosen.score:.4f}, of {chosen.number}"
        self._say(
            f"  trial {record.number} ({len(self._trials.records)} of {self._number}) "
            f"{record.status}{loss}: {record.parameters}{lowest}"
        )

    def _check_silence(self, trials: Sequence[TuneTrial]) -> None:
        silent = time.monotonic() - self._heard
        running = any(trial.status == "RUNNING" for trial in trials)
        if running and silent > self._workers.silence:
            raise RunError(
                f"no trial has reported for {silent:.0f} s. Where an evaluation takes longer than "
                "stages.search.silence, raise that"
            )
        if running or silent <= min(_START_SECONDS, _STALL_SECONDS):
            return
        free, total = ray.available_resources(), ray.cluster_resources()
        if free.get("CPU", 0) >= self._workers.cpus and free.get("GPU", 0) >= self._workers.gpus:
            raise Broken(f"no trial was started for {silent:.0f} s, though there was room for one")
        if silent > _START_SECONDS:
            raise RunError(
                f"no trial could be started for {silent:.0f} s. One needs {self._workers.cpus:g} "
                f"CPUs and {self._workers.gpus:g} GPUs; of {total.get('CPU', 0):g} CPUs and "
                f"{total.get('GPU', 0):g} GPUs, {free.get('CPU', 0):g} and {free.get('GPU', 0):g} "
                "are free: lower stages.search.num_cpus or num_gpus, or wait for the other work"
            )


def _reason(trial: TuneTrial) -> str:
    """The last line of what a trial raised."""
    path = trial.error_file
    text = Path(path).read_text(errors="replace").strip() if path and Path(path).exists() else ""
    return (text or "its process died").splitlines()[-1]
