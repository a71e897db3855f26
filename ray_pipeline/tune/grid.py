"""An experiment's cells on Ray Tune: one process each, as many at the same time as fit.

What counts is in the run directory: the record of every cell that finished, which is never trained
again, and the checkpoints of those that did not, which resume with the exact next step. So a kill
at any moment changes no number of the final table.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from ray import tune

from ray_pipeline.core.errors import RunError, UserError, first_line
from ray_pipeline.train.job import Training, WorkersConfig
from ray_pipeline.train.launch import run_training
from ray_pipeline.train.loop import Diverged, World
from ray_pipeline.tune.cells import CellTraining, distinct, share_records
from ray_pipeline.tune.runner import (
    Interrupted,
    TrialWorkers,
    Watch,
    announce,
    run_trials,
    run_until_done,
)

if TYPE_CHECKING:
    from ray.tune.experiment import Trial as TuneTrial

#: Seconds between two progress lines about running cells.
_SAY_EVERY = 10.0


def run_grid(
    cells: Sequence[CellTraining], workers: TrialWorkers, say: Callable[[str], None]
) -> None:
    """Train the cells that have no record yet, several at the same time.

    Args:
        cells: all cells of the experiment. Ray has been joined.
        workers: the processes, one for each cell that is being trained.
        say: takes a line of progress.

    Raises:
        UserError: a cell does not fit the cluster, or rows or models do not fit the configuration.
        RunError: a cell's process was lost too often, none could be started, or none reported for
            too long.
    """
    number = len(distinct(cells))
    run_until_done(
        lambda: _left(cells),
        lambda left: _attempt(left, number, workers, say),
        "experiment",
        say,
    )
    share_records(cells)


def run_in_turn(
    cells: Sequence[CellTraining], workers: WorkersConfig, say: Callable[[str], None]
) -> None:
    """Train the cells that have no record yet one after another, each with several workers.

    Raises:
        UserError: rows or models do not fit the configuration.
        RunError: workers were lost too often.
    """
    left, number = _left(cells), len(distinct(cells))
    for position, cell in enumerate(left, start=number - len(left) + 1):
        say(f"  cell {cell.name} ({position} of {number})")
        try:
            run_training(cell.job, workers, say)
            cell.finish()
        except Diverged as error:
            cell.finish(diverged=str(error))
        say(_outcome(cell, position, number))
    share_records(cells)


def _left(cells: Sequence[CellTraining]) -> list[CellTraining]:
    """The trainings without a record."""
    return [cell for cell in distinct(cells) if cell.record() is None]


def _attempt(
    left: Sequence[CellTraining], number: int, workers: TrialWorkers, say: Callable[[str], None]
) -> None:
    """Train what is left; ``number`` is that of all trainings."""
    at_once = announce(number, len(left), "cells", workers, say)
    trial = tune.with_parameters(
        CellTrial,
        cells={cell.name: cell for cell in left},
        device=workers.each.device,
        threads=workers.each.threads,
    )
    space = {"cell": tune.grid_search([cell.name for cell in left])}
    run_trials(trial, workers, at_once, GridWatch(left, number, workers, say), space)
    if missing := _left(left):
        raise Interrupted(f"{len(missing)} cells ended without a record, such as {missing[0].name}")


class CellTrial(tune.Trainable):
    """Trains a cell from its last checkpoint, and writes its record.

    No other Ray work is nested in it, so nothing is left behind where it is stopped.
    """

    def setup(  # type: ignore[override]  # tune.with_parameters gives the others
        self, config: dict[str, Any], cells: dict[str, CellTraining], device: str, threads: int
    ) -> None:
        """Prepare the process and its first cell."""
        torch.set_num_threads(threads)
        self._cells = cells
        self._device = device
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Prepare for another cell."""
        self._cell = self._cells[new_config["cell"]]
        # Releases the model and the optimizer of the cell before, too.
        self._evaluations: Iterator[dict[str, float]] | None = None
        return True

    def step(self) -> dict[str, Any]:
        """Train up to the next evaluation.

        Returns:
            The validation ``loss`` after ``step`` steps; or ``done``: the record is written; or
            ``refused`` (see `Watch`): what keeps every cell from being trained.
        """
        try:
            return self._next_evaluation()
        except Diverged as error:
            self._cell.finish(diverged=str(error))
            return {"done": True}
        except torch.cuda.OutOfMemoryError as error:
            message = (
                f"the GPU's memory is full ({first_line(error)}): lower "
                "batches.batch_tokens or set gradient_checkpointing: true"
            )
            return {"refused": (UserError.__name__, message), "done": True}
        except (UserError, RunError) as error:
            return {"refused": (type(error).__name__, str(error)), "done": True}

    def _next_evaluation(self) -> dict[str, Any]:
        job = self._cell.job
        if self._evaluations is None and job.finished() is None:
            training = Training(job, World(), self._device, report=lambda figures: None)
            self._evaluations = training.evaluations()
        evaluation = None if self._evaluations is None else next(self._evaluations, None)
        if evaluation is None:
            self._cell.finish()
            return {"done": True}
        if not math.isfinite(evaluation["validation_loss"]):
            raise Diverged(f"step {evaluation['step']}: the validation loss is not a number")
        return {"step": evaluation["step"], "loss": evaluation["validation_loss"], "done": False}


class GridWatch(Watch):
    """Reports the progress of cells, and raises where the experiment cannot go on.

    Args:
        cells: the cells that are left to train.
        number: of all trainings, finished ones included.
        workers: the cells' processes.
        say: takes a line of progress.
    """

    kind: ClassVar[str] = "cell"
    key: ClassVar[str] = "cell"
    recovery: ClassVar[str] = "resumes from its checkpoint"

    def __init__(
        self,
        cells: Sequence[CellTraining],
        number: int,
        workers: TrialWorkers,
        say: Callable[[str], None],
    ) -> None:
        super().__init__(workers, say)
        self._cells = {cell.name: cell for cell in cells}
        self._number = number
        self._finished = number - len(cells)
        self._last_said = time.monotonic()

    def on_trial_result(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        """Report an evaluation, every few seconds."""
        super().on_trial_result(iteration, trials, trial, result, **info)
        if "loss" in result and time.monotonic() - self._last_said > _SAY_EVERY:
            self._last_said = time.monotonic()
            loss = f"validation loss {result['loss']:.4f}"
            self._say(f"  {self.named(trial)}: step {result['step']}, {loss}")

    def ended(self, trial: TuneTrial) -> None:
        """Report a cell that has its record."""
        self._finished += 1
        self._say(_outcome(self._cells[trial.config["cell"]], self._finished, self._number))


def _outcome(training: CellTraining, position: int, number: int) -> str:
    """The progress line of a finished cell."""
    cell = training.record()
    if cell is None:
        outcome = "no record"
    elif cell.diverged_because is not None:
        outcome = f"diverged: {cell.diverged_because}"
    else:
        losses = f"validation loss {cell.validation_loss:.4f}, test {cell.test_loss:.4f}"
        outcome = f"{losses}; {cell.tokens_seen:,} tokens in {cell.seconds:.1f} s"
    return f"  cell {training.name} ({position} of {number}): {outcome}"
