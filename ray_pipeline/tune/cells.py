"""Trainings of an experiment: what trains each cell, and the records that they leave in the run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray_pipeline.core.hashing import fingerprint
from ray_pipeline.core.storage import Storage
from ray_pipeline.evaluate.experiment.cells import (
    Cell,
    CellPlan,
    Evaluation,
    find_cell,
    write_cell,
)
from ray_pipeline.rundir.layout import CELLS
from ray_pipeline.rundir.trainings import read_curve
from ray_pipeline.train.job import TrainingJob, checkpoints_folder
from ray_pipeline.train.loop import warmup_steps


@dataclass(frozen=True)
class CellTraining:
    """What trains one cell.

    Attributes:
        plan: the cell.
        job: the training.
        tokens_to_see: tokens that the training will see; repeated ones count each time.
        identity: what else the training depends on, as plain data.
    """

    plan: CellPlan
    job: TrainingJob
    tokens_to_see: int
    identity: Any

    @property
    def name(self) -> str:
        """The cell's name."""
        return self.plan.name

    @property
    def digest(self) -> str:
        """Identity of the training: cells with the same digest are one training."""
        job, budget = self.job, self.job.pace.budget
        length = None if budget is None else [budget.tokens, budget.steps]
        pace = [length, job.pace.evaluations, job.pace.warmup_share]
        assert job.model.scratch is not None
        return fingerprint(
            [
                self.identity,
                job.model.scratch.identity(),
                job.loop.identity(),
                job.batches.identity(),
                pace,
            ]
        )

    def record(self) -> Cell | None:
        """The cell, once it is finished; None, too, where its model is wanted and was not kept."""
        cell = find_cell(self.job.storage, self.plan, self.digest)
        if cell is None:
            return None
        lacks_model = cell.model is None and cell.diverged_because is None
        return None if lacks_model and self.job.name is not None else cell

    def keep(self, outcome: Cell) -> None:
        """Write the record: this cell with the outcome of its training, or of an equal one."""
        write_cell(self.job.storage, replace(outcome, **vars(self.plan)))

    def finish(self, diverged: str | None = None) -> None:
        """Write the record from what the training left: its curve, and its result.

        Args:
            diverged: why the training has no result; None: it came to its end.
        """
        job, result = self.job, self.job.finished() or {}
        if diverged is not None:
            job.storage.delete_folder(checkpoints_folder(job))
        lines = read_curve(job.storage, job.curve)
        sums, evaluations = _sums(lines)
        kept = diverged is None and job.name is not None
        self.keep(
            Cell(
                **vars(self.plan),
                **sums,
                parameters=result.get("parameters"),
                evaluations=evaluations,
                validation_loss=evaluations[-1].loss if evaluations and not diverged else None,
                test_loss=result.get("test_loss"),
                test_tokens=result.get("test_tokens"),
                model=f"models/{job.name}" if kept else None,
                diverged_because=diverged,
                trained_as=self.name,
                digest=self.digest,
                **self._schedule(lines),
            )
        )

    def _schedule(self, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Shape and warm-up of the learning rate; nothing if no step was taken."""
        total = next((line["total_steps"] for line in lines if "total_steps" in line), None)
        if total is None:
            return {}
        loop = self.job.pace.within(self.job.loop, total)
        return {"schedule": loop.schedule, "warmup_steps": warmup_steps(loop, total)}


def distinct(cells: Iterable[CellTraining]) -> list[CellTraining]:
    """The different trainings, each as the first cell that it is; the largest training first."""
    first: dict[str, CellTraining] = {}
    for cell in cells:
        first.setdefault(cell.digest, cell)
    return sorted(first.values(), key=lambda cell: -cell.tokens_to_see)


def share_records(cells: Sequence[CellTraining]) -> None:
    """Give cells that are the same training the outcome of the one that was trained."""
    outcomes = {cell.digest: cell.record() for cell in distinct(cells)}
    for cell in cells:
        outcome = outcomes[cell.digest]
        if outcome is not None and cell.record() is None:
            cell.keep(outcome)


def forget_others(storage: Storage, cells: Sequence[CellTraining]) -> None:
    """Delete the records of cells that are not, or no longer, part of the experiment."""
    own = {cell.plan.path: cell for cell in cells}
    for path in list(storage.list(CELLS)):
        if path not in own or own[path].record() is None:
            storage.delete(path)


def _sums(lines: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Any], tuple[Evaluation, ...]]:
    """Sums over a curve's steps, and its evaluations with the sums up to each."""
    steps, tokens, seconds, evaluations = 0, 0, 0.0, []
    for line in lines:
        if (loss := line.get("validation_loss")) is None and "tokens" in line:
            steps, tokens = line["step"], tokens + line["tokens"]
            seconds += line["seconds"]
        else:
            evaluations.append(Evaluation(line["step"], tokens, round(seconds, 3), loss))
    sums = {"tokens_seen": tokens, "steps": steps, "seconds": round(seconds, 3)}
    return sums, tuple(evaluations)
