"""Watches a search from the run's own process: records, news, and an end where nothing moves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ray_pipeline.tune.parameters import Parameters
from ray_pipeline.tune.trials import TrialRecord, Trials, best
from ray_pipeline.tune.watch import Watch, reason
from ray_pipeline.tune.workers import TrialWorkers

if TYPE_CHECKING:
    from ray.tune.experiment import Trial as TuneTrial


class Observer(Watch):
    """Writes finished trials down, tells the user, and raises where the search cannot go on.

    Args:
        trials: the record.
        number: trials that there are to be, recorded ones included.
        workers: of the trials.
        say: takes a line of news.
    """

    def __init__(
        self, trials: Trials, number: int, workers: TrialWorkers, say: Callable[[str], None]
    ) -> None:
        super().__init__(workers, say)
        self._trials = trials
        self._number = number
        self._losses: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self._ended: list[TrialRecord] = []

    def on_trial_result(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        """A trial has evaluated, or said why it cannot."""
        super().on_trial_result(iteration, trials, trial, result, **info)
        if "refused" not in result and "diverged" not in result:
            self._losses[trial.trial_id].append((result["step"], result["loss"]))

    def on_trial_recover(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """A trial lost its process and begins again in another."""
        self._losses.pop(trial.trial_id, None)
        self._say(f"  {self.named(trial)} was lost and begins again: {reason(trial)}")

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
        """Write down and tell what finished, then see that the search can go on."""
        while self._ended:
            record = self._ended.pop(0)
            self._trials.add(record)
            self._tell(record)
        super().on_step_end(iteration, trials, **info)

    def named(self, trial: TuneTrial) -> str:
        """By its number."""
        return f"trial {trial.config['number']}"

    def _tell(self, record: TrialRecord) -> None:
        loss = "" if record.loss is None else f", validation loss {record.loss:.4f}"
        chosen = best(self._trials.records)
        lowest = "" if chosen is None else f"; the best is {chosen.score:.4f}, of {chosen.number}"
        self._say(
            f"  trial {record.number} ({len(self._trials.records)} of {self._number}) "
            f"{record.status}{loss}: {record.parameters}{lowest}"
        )
