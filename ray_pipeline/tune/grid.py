"""An experiment's cells on Ray Tune: one process each, as many at the same time as fit.

Ray Tune's own state is thrown away. What counts is in the run directory: the record of every cell
that finished, which is never trained again, and the checkpoints of those that did not, which go on
with the exact next step. So a kill at any moment changes no number of the final table, on any kind
of storage.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import ray
import ray.exceptions
import torch
from ray import tune

from ray_pipeline.core.errors import RunError, UserError, first_line, last_line
from ray_pipeline.train.job import Training, WorkersConfig
from ray_pipeline.train.launch import run_training
from ray_pipeline.train.loop import Diverged, World
from ray_pipeline.tune.cells import Cell, different, share_records
from ray_pipeline.tune.watch import Broken, Watch, reason
from ray_pipeline.tune.workers import TrialWorkers, quiet

if TYPE_CHECKING:
    from ray.tune.experiment import Trial as TuneTrial

#: Processes of one cell that may be lost before Ray Tune gives it up; and times in a row that Ray
#: Tune may fail, without a cell that finished in between, before the experiment is given up.
_MAX_FAILURES = 2
#: Seconds between two words on how far cells are.
_SAY_EVERY = 10.0


def run_grid(cells: Sequence[Cell], workers: TrialWorkers, say: Callable[[str], None]) -> None:
    """Train the cells that have no record yet, several at the same time.

    Args:
        cells: of the experiment. Ray has been joined.
        workers: a process each.
        say: takes a line of news.

    Raises:
        UserError: a cell does not fit the cluster, or rows or models do not fit the configuration.
        RunError: a cell's process was lost too often, or none could be started, or none was heard
            of for too long.
    """
    failed = 0
    while left := _left(cells):
        try:
            _attempt(left, len(different(cells)), workers, say)
        except (tune.TuneError, ray.exceptions.RayError, Broken) as error:
            last = last_line(error)
            failed = 1 if len(_left(cells)) < len(left) else failed + 1
            if failed > _MAX_FAILURES:
                raise RunError(f"the experiment failed: {last}") from error
            say(f"  Ray Tune begins again: {last}")
    share_records(cells)


def run_in_turn(cells: Sequence[Cell], workers: WorkersConfig, say: Callable[[str], None]) -> None:
    """Train the cells that have no record yet one after another, each with several workers.

    Raises:
        UserError: rows or models do not fit the configuration.
        RunError: workers were lost too often.
    """
    left, number = _left(cells), len(different(cells))
    for position, cell in enumerate(left, start=number - len(left) + 1):
        say(f"  cell {cell.name} ({position} of {number})")
        try:
            run_training(cell.job, workers, say)
            cell.finish()
        except Diverged as error:
            cell.finish(diverged=str(error))
        say(_ended(cell, position, number))
    share_records(cells)


def _left(cells: Sequence[Cell]) -> list[Cell]:
    return [cell for cell in different(cells) if cell.record() is None]


def _attempt(
    left: Sequence[Cell], number: int, workers: TrialWorkers, say: Callable[[str], None]
) -> None:
    """Train what is left with a Ray Tune that knows of nothing else."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    at_once = min(workers.on(nodes), len(left))
    before = f", {number - len(left)} of them finished before" if len(left) < number else ""
    say(f"  {number} cells{before}; {at_once} at the same time, each with {workers}")
    with tempfile.TemporaryDirectory(prefix="ray-pipeline-grid-") as scratch, quiet():
        watch = GridWatch(left, number, workers, say)
        _tuner(left, workers, at_once, watch, scratch).fit()
    if missing := _left(left):
        raise Broken(f"{len(missing)} cells ended without a record, such as {missing[0].name}")


def _tuner(
    left: Sequence[Cell], workers: TrialWorkers, at_once: int, watch: Watch, scratch: str
) -> tune.Tuner:
    trial = tune.with_parameters(
        CellTrial,
        cells={cell.name: cell for cell in left},
        device="cuda" if workers.each.gpus else "cpu",
        threads=max(1, int(workers.each.cpus)),
    )
    return tune.Tuner(
        tune.with_resources(trial, {"cpu": workers.each.cpus, "gpu": workers.each.gpus}),
        param_space={"cell": tune.grid_search([cell.name for cell in left])},
        tune_config=tune.TuneConfig(max_concurrent_trials=at_once, reuse_actors=True),
        run_config=tune.RunConfig(
            name="grid",
            storage_path=scratch,
            callbacks=[watch],
            failure_config=tune.FailureConfig(max_failures=_MAX_FAILURES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )


class CellTrial(tune.Trainable):
    """Trains a cell from its last checkpoint, and leaves its record.

    Nothing is nested in it, so nothing is left behind where it is stopped.
    """

    def setup(  # type: ignore[override]  # tune.with_parameters gives the others
        self, config: dict[str, Any], cells: dict[str, Cell], device: str, threads: int
    ) -> None:
        """Take on the first cell."""
        torch.set_num_threads(threads)
        self._cells = cells
        self._device = device
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take on another cell."""
        self._cell = self._cells[new_config["cell"]]
        self._pieces: Iterator[dict[str, float]] | None = None  # and what the last one worked with
        return True

    def step(self) -> dict[str, Any]:
        """Train up to the next evaluation.

        Returns:
            The validation ``loss`` after ``step`` steps; or ``done``: there is a record.
            Or what is wrong (``refused``), so that the experiment cannot go on.
        """
        try:
            return self._piece()
        except Diverged as error:
            self._cell.finish(diverged=str(error))
            return {"done": True}
        except torch.cuda.OutOfMemoryError as error:
            memory = f"the GPU's memory is full ({first_line(error)}): lower "
            mend = "batches.batch_tokens or set gradient_checkpointing: true"
            return {"refused": (UserError.__name__, memory + mend), "done": True}
        except (UserError, RunError) as error:
            return {"refused": (type(error).__name__, str(error)), "done": True}

    def _piece(self) -> dict[str, Any]:
        job = self._cell.job
        if self._pieces is None and job.finished() is None:
            self._pieces = Training(job, World(), self._device, lambda figures: None).pieces()
        evaluation = None if self._pieces is None else next(self._pieces, None)
        if evaluation is None:
            self._cell.finish()
            return {"done": True}
        if not math.isfinite(evaluation["validation_loss"]):
            raise Diverged(f"step {evaluation['step']}: the validation loss is not a number")
        return {"step": evaluation["step"], "loss": evaluation["validation_loss"], "done": False}


class GridWatch(Watch):
    """Tells the user of cells, and raises where the experiment cannot go on.

    Args:
        cells: that are left to train.
        number: of all cells.
        workers: of the cells.
        say: takes a line of news.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        number: int,
        workers: TrialWorkers,
        say: Callable[[str], None],
    ) -> None:
        super().__init__(workers, say)
        self._cells = {cell.name: cell for cell in cells}
        self._number = number
        self._done = number - len(cells)
        self._said = time.monotonic()

    def on_trial_result(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        """A cell has evaluated, or ended."""
        super().on_trial_result(iteration, trials, trial, result, **info)
        if "loss" in result and time.monotonic() - self._said > _SAY_EVERY:
            self._said = time.monotonic()
            loss = f"validation loss {result['loss']:.4f}"
            self._say(f"  {self.named(trial)}: step {result['step']}, {loss}")

    def on_trial_recover(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """A cell lost its process and goes on in another."""
        self._say(
            f"  {self.named(trial)} was lost and goes on from its checkpoint: {reason(trial)}"
        )

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        """A cell has its record."""
        if self._error is None and "refused" not in trial.last_result:
            self._done += 1
            self._say(_ended(self._cells[trial.config["cell"]], self._done, self._number))

    def named(self, trial: TuneTrial) -> str:
        """By the cell's name."""
        return f"cell {trial.config['cell']}"


def _ended(cell: Cell, position: int, number: int) -> str:
    record = cell.record() or {}
    if record.get("diverged"):
        outcome = f"diverged: {record['diverged']}"
    else:
        losses = f"validation loss {record['validation_loss']:.4f}, test {record['test_loss']:.4f}"
        outcome = f"{losses}; {record['tokens_seen']:,} tokens in {record['seconds']:.1f} s"
    return f"  cell {cell.name} ({position} of {number}): {outcome}"
