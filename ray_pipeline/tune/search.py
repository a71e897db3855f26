"""A search on Ray Tune: TPE proposes, each trial is one process, successive halving prunes.

What counts is the record of finished trials in the run directory (`trials.Trials`): a search that
is started again replays it into the sampler and the pruner, and runs what is left. So a kill at any
moment costs the trials that were running.
"""

from __future__ import annotations

import copy
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from ray import tune
from ray.tune.schedulers import FIFOScheduler

from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.core.hashing import fingerprint
from ray_pipeline.train.job import Bench, TrainingJob
from ray_pipeline.train.loop import Diverged, Loop
from ray_pipeline.tune.proposals import Proposals, Pruning, quiet_optuna
from ray_pipeline.tune.runner import TrialWorkers, Watch, announce, run_trials, run_until_done
from ray_pipeline.tune.trials import (
    LOSS,
    WORST,
    Parameters,
    PruningConfig,
    Space,
    TrialRecord,
    Trials,
    best,
)

if TYPE_CHECKING:
    from ray.tune.experiment import Trial as TuneTrial


@dataclass(frozen=True)
class Study:
    """What is searched. The trials of one study say nothing about another.

    Attributes:
        job: the training; each trial replaces its parameters.
        space: the ranges of the parameters.
        first: the parameters of trial 0, inside the space; it is never pruned.
        seed: of the proposals.
        pruning: when trials are stopped early; None: every trial is trained to its end.
        identity: what else a trial's outcome depends on, as plain data.
    """

    job: TrainingJob
    space: Space
    first: Parameters
    seed: int = 0
    pruning: PruningConfig | None = None
    identity: Any = None

    @property
    def digest(self) -> str:
        """Identity of the study."""
        pruning = None if self.pruning is None else self.pruning.model_dump()
        space, first = self.space.model_dump(), self.first.model_dump()
        return fingerprint([space, first, self.seed, pruning, self.job.rows.digest, self.identity])


def search(
    study: Study, number: int, trials: Trials, workers: TrialWorkers, say: Callable[[str], None]
) -> list[TrialRecord]:
    """Run the trials that have no record yet.

    Args:
        study: what is searched.
        number: trials to run, finished ones included. Ray has been joined.
        trials: the records of this study; every trial is added when it finishes.
        workers: the trials' processes.
        say: takes a line of progress.

    Returns:
        The records of ``number`` trials, in the order in which they finished.

    Raises:
        UserError: a trial does not fit the cluster, or rows or models do not fit the configuration.
        RunError: a trial's process was lost too often, none could be started, or none reported for
            too long.
    """
    run_until_done(
        lambda: range(len(trials.records), number),
        lambda left: _attempt(study, number, trials, workers, say),
        "search",
        say,
    )
    return trials.records[:number]


def _attempt(
    study: Study, number: int, trials: Trials, workers: TrialWorkers, say: Callable[[str], None]
) -> None:
    """Run the trials that are left."""
    records, left = trials.records, number - len(trials.records)
    at_once = announce(number, left, "trials", workers, say)
    trial = tune.with_parameters(
        Trial, job=study.job, device=workers.each.device, threads=workers.each.threads
    )
    pruning = FIFOScheduler() if study.pruning is None else Pruning(study.pruning, records)
    with quiet_optuna():
        run_trials(
            trial,
            workers,
            at_once,
            SearchWatch(trials, number, workers, say),
            search_alg=Proposals(study.first, study.space, study.seed, records),
            scheduler=pruning,
            num_samples=left,
        )
    if len(trials.records) < number:
        raise RunError(f"the search ended after {len(trials.records)} of {number} trials")


class SearchWatch(Watch):
    """Records trials, reports progress, and raises where the search cannot go on.

    Args:
        trials: the record.
        number: trials to run, finished ones included.
        workers: the trials' processes.
        say: takes a line of progress.
    """

    def __init__(
        self, trials: Trials, number: int, workers: TrialWorkers, say: Callable[[str], None]
    ) -> None:
        super().__init__(workers, say)
        self._trials = trials
        self._number = number
        self._losses: dict[str, list[tuple[int, float]]] = defaultdict(list)

    def on_trial_result(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        """Collect an evaluation."""
        super().on_trial_result(iteration, trials, trial, result, **info)
        if "refused" not in result and "diverged" not in result:
            self._losses[trial.trial_id].append((result["step"], result["loss"]))

    def on_trial_recover(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """Forget the evaluations of a trial that restarts."""
        self._losses.pop(trial.trial_id, None)
        super().on_trial_recover(iteration, trials, trial, **info)

    def ended(self, trial: TuneTrial) -> None:
        """Record a trial that is trained to its end, pruned or diverged; report it."""
        last = trial.last_result
        ended = "finished" if last.get("ended") else "pruned"
        record = TrialRecord(
            number=trial.config["number"],
            status="diverged" if "diverged" in last else ended,  # type: ignore[arg-type]
            parameters=_parameters(trial.config),
            losses=tuple(self._losses.pop(trial.trial_id, [])),
            seconds=round(last["seconds"], 3),
        )
        self._trials.add(record)
        loss = "" if record.loss is None else f", validation loss {record.loss:.4f}"
        chosen = best(self._trials.records)
        lowest = "" if chosen is None else f"; the best is {chosen.score:.4f}, of {chosen.number}"
        self._say(
            f"  trial {record.number} ({len(self._trials.records)} of {self._number}) "
            f"{record.status}{loss}: {record.parameters}{lowest}"
        )


def _parameters(config: dict[str, Any]) -> Parameters:
    """The parameters among a trial's configuration in Ray Tune."""
    return Parameters(**{name: config[name] for name in Parameters.model_fields})


class Trial(tune.Trainable):
    """Trains the student from its initial weights, and reports each evaluation.

    Ray Tune gives a process one trial after another: model, rows and teacher are loaded once. No
    other Ray work is nested in it, so a trial can be stopped between two evaluations without
    leaving anything behind.
    """

    def setup(  # type: ignore[override]  # tune.with_parameters gives the others
        self, config: dict[str, Any], job: TrainingJob, device: str, threads: int
    ) -> None:
        """Prepare the process and its first trial."""
        torch.set_num_threads(threads)
        self._job = job
        self._device = device
        self._bench: Bench | None = None
        self._initial_weights: dict[str, torch.Tensor] = {}
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Prepare for another trial."""
        self._parameters = _parameters(new_config)
        # Releases the optimizer of the trial before, too.
        self._loop: Loop | None = None
        self._evaluations: Iterator[dict[str, float]] = iter(())
        self._seconds = 0.0
        return True

    def step(self) -> dict[str, Any]:
        """Train up to the next evaluation.

        Returns:
            `LOSS`, the lowest so far; ``loss``, this evaluation's, after ``step`` steps and
            ``seconds`` of training and evaluation; ``ended``: whether it was the last one (``done``
            is set by Ray Tune, too, where it stops a trial). Or ``refused`` (see `Watch`): what
            keeps every trial from working, whatever its parameters.
        """
        try:
            return self._next_evaluation()
        except Diverged:
            return {LOSS: WORST, "diverged": True, "seconds": self._seconds, "done": True}
        except (UserError, RunError) as error:
            return {LOSS: WORST, "refused": (type(error).__name__, str(error)), "done": True}

    def _next_evaluation(self) -> dict[str, Any]:
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
        """The training loop of this trial, on the student with its initial weights."""
        if self._bench is None:
            self._bench = Bench.load(self._job, self._device)
            if self._bench.validation is None:
                raise UserError(
                    "there are no validation rows, by which trials are compared: raise "
                    "stages.split.validation"
                )
            self._initial_weights = copy.deepcopy(self._bench.model.state_dict())
        model = self._bench.model
        model.load_state_dict(self._initial_weights)
        model.zero_grad(set_to_none=True)  # a trial that diverged leaves gradients
        parameters = self._parameters
        self._loop = self._bench.loop(parameters.objective, parameters.loop(self._job.loop))
        self._evaluations = self._loop.evaluations()
        return self._loop
