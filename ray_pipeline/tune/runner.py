"""Runs trials on Ray Tune: how many fit the cluster, what is watched, and when to start over.

Ray Tune's own state is thrown away. What counts is what finished trials leave in the run directory:
an attempt that fails is replaced by another one, which runs what is left. So a kill at any moment
costs the trials that were running, on any kind of storage.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import ray
import ray.exceptions
from ray import tune

from ray_pipeline.core.errors import RunError, UserError, cause_in_words
from ray_pipeline.core.resources import Resources

if TYPE_CHECKING:
    from ray.tune.experiment import Trial as TuneTrial

#: How often a trial may lose its process before Ray Tune gives the trial up; and how many attempts
#: in a row may fail without a trial that finished.
_MAX_FAILURES = 2
#: Seconds in which some trial must have started, on a cluster that may have to grow first; and
#: where there is room for it.
_START_SECONDS, _STALL_SECONDS = 900.0, 60.0
_RESOURCES = ("CPU", "GPU")

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class TrialWorkers:
    """The processes that trials run in, one each.

    Attributes:
        each: resources of one process.
        at_most: processes at the same time; None: as many as the cluster holds now.
        stall_timeout: seconds without a report of any trial after which the run fails.
        stage: name of the stage, for messages.
    """

    each: Resources = field(default_factory=Resources)
    at_most: int | None = None
    stall_timeout: float = 3600
    stage: str = "search"

    def fit_on(self, nodes: Sequence[Mapping[str, float]]) -> int:
        """How many run at the same time on nodes such as ``{"CPU": 2, "GPU": 0}``.

        Raises:
            UserError: none fits any node.
        """
        if self.at_most is not None:  # the cluster may grow: what does not fit yet waits
            return self.at_most
        number = sum(self.each.fit_on(node) for node in nodes)
        if number == 0:
            largest = {name: max((n.get(name, 0) for n in nodes), default=0) for name in _RESOURCES}
            raise UserError(
                f"a trial needs {self.each.cpus:g} CPUs and {self.each.gpus:g} GPUs on one node; "
                f"the largest of {len(nodes)} nodes has {largest['CPU']:g} CPUs and "
                f"{largest['GPU']:g} GPUs: lower num_cpus or num_gpus, or set concurrency where "
                "the cluster adds nodes"
            )
        return number


class Interrupted(RunError):
    """This attempt at the trials cannot go on; another one may."""


class Watch(tune.Callback):
    """Follows trials from the run's own process: reports progress, and ends what cannot go on.

    Ray Tune swallows what a callback raises in its hooks on trials, and passes on what it raises in
    `on_step_end`, after stopping all trials. So the hooks on trials only collect what happened, and
    `on_step_end` deals with it.

    A trial's result may be ``{"refused": (name of the error's type, its message)}``: then no trial
    could work, and the error is raised in the run's own process.

    Args:
        workers: the trials' processes.
        say: takes a line of progress.
    """

    #: What a trial is called in messages, and the key of its configuration that names it.
    kind: ClassVar[str] = "trial"
    key: ClassVar[str] = "number"
    #: What a trial does after its process was lost, for messages.
    recovery: ClassVar[str] = "restarts"

    def __init__(self, workers: TrialWorkers, say: Callable[[str], None]) -> None:
        self._workers = workers
        self._say = say
        self._error: Exception | None = None
        self._ended: list[TuneTrial] = []
        self._last_report = time.monotonic()

    def __reduce__(self) -> Any:
        """Ray Tune pickles its callbacks for a restore, which is not used here."""
        return tune.Callback, ()

    @abstractmethod
    def ended(self, trial: TuneTrial) -> None:
        """Record a trial that ended and was not refused; report it."""

    def named(self, trial: TuneTrial) -> str:
        """A trial's name in messages."""
        return f"{self.kind} {trial.config[self.key]}"

    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Called when a trial has got its process."""
        self._last_report = time.monotonic()

    def on_trial_result(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        """Called when a trial has evaluated, or was refused."""
        self._last_report = time.monotonic()
        if "refused" in result:
            kind, message = result["refused"]
            self._error = UserError(message) if kind == UserError.__name__ else RunError(message)

    def on_trial_recover(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Called when a trial that lost its process gets another one."""
        self._say(f"  {self.named(trial)} was lost and {self.recovery}: {_failure(trial)}")

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Called when a trial is trained to its end, pruned, or diverged."""
        if "refused" not in trial.last_result:
            self._ended.append(trial)

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Called when Ray Tune gives a trial up. Bad parameters diverge: they do not end here."""
        self._error = Interrupted(f"{self.named(trial)} failed: {_failure(trial)}")

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        """Deal with what happened since the last call.

        Raises:
            UserError: rows or models do not fit the configuration.
            Interrupted: a trial was given up, or none starts although there is room.
            RunError: the trials cannot go on.
        """
        while self._ended:
            self.ended(self._ended.pop(0))
        if self._error is not None:
            raise self._error
        self._check_stall(trials)

    def _check_stall(self, trials: Sequence[TuneTrial]) -> None:
        silent, stage = time.monotonic() - self._last_report, f"stages.{self._workers.stage}"
        running = any(trial.status == "RUNNING" for trial in trials)
        if running and silent > self._workers.stall_timeout:
            raise RunError(
                f"no trial has reported for {silent:.0f} s. Where an evaluation takes longer than "
                f"{stage}.stall_timeout, raise that"
            )
        if running or silent <= min(_START_SECONDS, _STALL_SECONDS):
            return
        free, total = ray.available_resources(), ray.cluster_resources()
        each = self._workers.each
        if free.get("CPU", 0) >= each.cpus and free.get("GPU", 0) >= each.gpus:
            raise Interrupted(
                f"no trial was started for {silent:.0f} s, though there was room for one"
            )
        if silent > _START_SECONDS:
            raise RunError(
                f"no trial could be started for {silent:.0f} s. One needs {each.cpus:g} CPUs and "
                f"{each.gpus:g} GPUs; of {total.get('CPU', 0):g} CPUs and "
                f"{total.get('GPU', 0):g} GPUs, {free.get('CPU', 0):g} and {free.get('GPU', 0):g} "
                f"are free: lower {stage}.num_cpus or num_gpus, or wait for the other work"
            )


def _failure(trial: TuneTrial) -> str:
    """The last line of the error that a trial ended with."""
    path = trial.error_file
    text = Path(path).read_text(errors="replace").strip() if path and Path(path).exists() else ""
    return (text or "its process died").splitlines()[-1]


def run_until_done(
    left: Callable[[], Sequence[_Item]],
    attempt: Callable[[Sequence[_Item]], None],
    what: str,
    say: Callable[[str], None],
) -> None:
    """Attempt what is left until nothing is, with a new Ray Tune for each attempt.

    Ray Tune repeats a trial whose process was lost, but does not get over everything: of a process
    that dies between two trials (2.60) it counts the loss twice, and gives the second trial up.

    Args:
        left: the trials that have not finished yet, from the run directory.
        attempt: runs these trials.
        what: what the trials make up, for the message of an error.
        say: takes a line of progress.

    Raises:
        UserError: the trials cannot run on this cluster, or with this configuration.
        RunError: several attempts in a row failed without a trial that finished.
    """
    failed = 0
    while remaining := left():
        try:
            attempt(remaining)
        except (tune.TuneError, ray.exceptions.RayError, Interrupted) as error:
            failed = 1 if len(left()) < len(remaining) else failed + 1
            if failed > _MAX_FAILURES:
                raise RunError(f"the {what} failed: {cause_in_words(error)}") from error
            say(f"  restarting Ray Tune: {cause_in_words(error)}")


def announce(
    number: int, left: int, things: str, workers: TrialWorkers, say: Callable[[str], None]
) -> int:
    """Report how many trials there are and how many run at the same time; return the latter.

    Raises:
        UserError: a trial does not fit any node of the cluster.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    at_once = min(workers.fit_on(nodes), left)
    before = f", {number - left} of them finished before" if left < number else ""
    say(f"  {number} {things}{before}; {at_once} at the same time, each with {workers.each}")
    return at_once


def run_trials(
    trainable: Any,
    workers: TrialWorkers,
    at_once: int,
    watch: Watch,
    space: dict[str, Any] | None = None,
    **options: Any,
) -> None:
    """Run trials with a Ray Tune of their own.

    Args:
        trainable: what each trial is.
        workers: the trials' processes.
        at_once: trials at the same time, at most.
        watch: follows them.
        space: what Ray Tune itself chooses trials from; None: ``search_alg`` proposes them.
        options: further arguments of ``tune.TuneConfig``.

    Raises:
        Exception: what ``watch`` raises.
    """
    with tempfile.TemporaryDirectory(prefix="ray-pipeline-tune-") as scratch, _quiet():
        tune.Tuner(
            tune.with_resources(trainable, {"cpu": workers.each.cpus, "gpu": workers.each.gpus}),
            param_space=space,
            tune_config=tune.TuneConfig(
                max_concurrent_trials=at_once, reuse_actors=True, **options
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=scratch,
                callbacks=[watch],
                failure_config=tune.FailureConfig(max_failures=_MAX_FAILURES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let Ctrl-C reach the run, and keep Ray Tune from writing logs of its own."""
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
