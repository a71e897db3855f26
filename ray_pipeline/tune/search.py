"""A search on Ray Tune: TPE proposes, each trial is one process, successive halving prunes.

Ray Tune's own state is thrown away. What counts is the record of finished trials in the run
directory (`trials.Trials`): a search that goes on tells it to sampler and pruning first, and runs
what is left. So a kill at any moment costs the trials that were running, on any kind of storage.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import ray
import ray.exceptions
from optuna.distributions import FloatDistribution
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from ray_pipeline.core.errors import RunError, last_line
from ray_pipeline.core.hashing import fingerprint
from ray_pipeline.train.job import TrainingJob
from ray_pipeline.tune.observer import Observer
from ray_pipeline.tune.parameters import Parameters, PruningConfig, Space
from ray_pipeline.tune.pruning import LOSS, Pruning
from ray_pipeline.tune.sampler import SeededTPE
from ray_pipeline.tune.trial import Trial
from ray_pipeline.tune.trials import TrialRecord, Trials
from ray_pipeline.tune.watch import Broken
from ray_pipeline.tune.workers import TrialWorkers, quiet

#: Processes of one trial that may be lost before Ray Tune gives it up; and times in a row that Ray
#: Tune may fail, without a trial that finished in between, before the search is given up.
_MAX_FAILURES = 2


@dataclass(frozen=True)
class Study:
    """What is searched. A trial of one study means nothing to another.

    Attributes:
        job: the training, as every trial has it but for its parameters.
        space: where to look.
        first: what trial 0 tries, inside of the space; it is never pruned.
        seed: of the proposals.
        pruning: None: every trial is trained to its end.
        identity: whatever else a trial's outcome depends on, as plain data.
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
    """Run the trials that the record does not have yet.

    Args:
        study: what is searched.
        number: trials that there are to be. Ray has been joined.
        trials: the record, of this study; every trial is added to it when it finishes.
        workers: for the trials.
        say: takes a line of news.

    Returns:
        The records of ``number`` trials, in the order in which they finished.

    Raises:
        UserError: a trial does not fit the cluster, or rows or models do not fit the configuration.
        RunError: a trial's process was lost too often, or none could be started, or none was heard
            of for too long.
    """
    failed = 0
    while (done := len(trials.records)) < number:
        try:
            _attempt(study, number, trials, workers, say)
        except (tune.TuneError, ray.exceptions.RayError, Broken) as error:
            # Ray Tune repeats a trial whose process was lost, but does not get over everything: of
            # one that dies between two trials (2.60) it counts the loss twice and gives the second
            # trial up. With what is recorded it can begin anew.
            reason = last_line(error)
            failed = 1 if len(trials.records) > done else failed + 1
            if failed > _MAX_FAILURES:
                raise RunError(f"the search failed: {reason}") from error
            say(f"  Ray Tune begins again: {reason}")
    return trials.records[:number]


def _attempt(
    study: Study, number: int, trials: Trials, workers: TrialWorkers, say: Callable[[str], None]
) -> None:
    """Run what is left with a Ray Tune that knows nothing but the record."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    done = len(trials.records)
    at_once = min(workers.on(nodes), number - done)
    say(_beginning(number, done, at_once, workers))
    observer = Observer(trials, number, workers, say)
    with tempfile.TemporaryDirectory(prefix="ray-pipeline-search-") as scratch, _quiet():
        _tuner(study, number, trials.records, workers, at_once, observer, scratch).fit()
    if len(trials.records) < number:
        raise RunError(f"the search ended after {len(trials.records)} of {number} trials")


def _beginning(number: int, done: int, at_once: int, workers: TrialWorkers) -> str:
    goes_on = f", {done} of them finished before" if done else ""
    return f"  {number} trials{goes_on}; {at_once} at the same time, each with {workers}"


def _tuner(
    study: Study,
    number: int,
    records: Sequence[TrialRecord],
    workers: TrialWorkers,
    at_once: int,
    observer: Observer,
    scratch: str,
) -> tune.Tuner:
    trial = tune.with_parameters(
        Trial,
        job=study.job,
        device="cuda" if workers.each.gpus else "cpu",
        threads=max(1, int(workers.each.cpus)),
    )
    resources = {"cpu": workers.each.cpus, "gpu": workers.each.gpus}
    return tune.Tuner(
        tune.with_resources(trial, resources),
        tune_config=tune.TuneConfig(
            search_alg=_proposals(study, records),
            scheduler=_scheduler(study, records),
            num_samples=number - len(records),
            max_concurrent_trials=at_once,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="search",
            storage_path=scratch,
            callbacks=[observer],
            failure_config=tune.FailureConfig(max_failures=_MAX_FAILURES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )


class _Proposals(OptunaSearch):
    """Optuna's proposals, each with its number.

    Args:
        points: to be tried first, as trial 0; none where that was tried.
        number: of the trial after the recorded ones.
        more: arguments of Optuna's search.
    """

    def __init__(self, points: list[dict[str, float]], number: int, **more: Any) -> None:
        super().__init__(points_to_evaluate=points, **more)
        self._first_waits = bool(points)
        self._number = number

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial's parameters."""
        proposed = super().suggest(trial_id)
        if proposed is None:
            return None
        if self._first_waits:
            self._first_waits = False
            return {**proposed, "number": 0}
        self._number += 1
        return {**proposed, "number": self._number - 1}


def _proposals(study: Study, records: Sequence[TrialRecord]) -> _Proposals:
    """TPE that knows the recorded trials."""
    first = study.first.model_dump()
    recorded = {record.number: record for record in records}
    after = max(recorded, default=0) + 1
    proposals = _Proposals(
        points=[] if 0 in recorded else [first],
        number=after,
        space=_distributions(study.space),
        metric=LOSS,
        mode="min",
        sampler=SeededTPE(study.seed),
    )
    for number in range(0 if 0 in recorded else 1, after):
        if (record := recorded.get(number)) is not None:
            proposals.add_evaluated_point(record.parameters.model_dump(), record.score)
        else:
            # Lost with its process. Its number stays taken: under it, TPE would propose again what
            # finished after it.
            proposals.add_evaluated_point(first, 0.0, error=True)
    return proposals


def _distributions(space: Space) -> dict[str, FloatDistribution]:
    """The space as Optuna's."""
    ranges = {name: getattr(space, name) for name in Space.model_fields}
    return {
        name: FloatDistribution(one.low, one.high, log=name == "learning_rate")
        for name, one in ranges.items()
    }


def _scheduler(study: Study, records: Sequence[TrialRecord]) -> TrialScheduler:
    if study.pruning is None:
        return FIFOScheduler()
    pruning = Pruning(study.pruning)
    for record in records:
        pruning.recall(record)
    return pruning


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Have neither Ray Tune nor Optuna write logs of their own."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with quiet():
            yield
    finally:
        optuna.logging.set_verbosity(level)
