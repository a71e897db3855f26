"""The workers: the tasks and actors that Ray Data calls with blocks of units, by kind of stage.

A block holds units, not rows. Each worker reads its units' rows from storage and commits them
there, so that nothing depends on how Ray splits, orders or repeats blocks.
"""

from __future__ import annotations

import socket

import pyarrow as pa
import ray

from ray_pipeline.core.errors import BudgetExhausted, RunError, Stopping, UserError
from ray_pipeline.engine import worker_processes
from ray_pipeline.engine.asking import AskingLoop
from ray_pipeline.engine.coordinator import CoordinatorHandle
from ray_pipeline.engine.decide import apply_decisions
from ray_pipeline.engine.isolation import run_isolated
from ray_pipeline.engine.segments import run_maps
from ray_pipeline.engine.unit import SegmentJob, UnitState, Work, reusable, run_unit
from ray_pipeline.rundir.account import StageAccount
from ray_pipeline.rundir.lock import working
from ray_pipeline.rundir.units import Unit, units_of
from ray_pipeline.stage import AskStage, DecideStage, MapStage, ModelStage

#: A unit that killed its worker this often is run in isolation, to find the row that causes it.
MAX_DEATHS = 3


def map_units(block: pa.Table, job: SegmentJob, coordinator: CoordinatorHandle) -> pa.Table:
    """Ray Data task: runs map stages, or applies decisions, on the units of a block.

    Args:
        block: the units.
        job: the segment.
        coordinator: the run's coordinator.

    Returns: the units that were committed.
    """
    loop = _UnitLoop(job, coordinator)
    if job.segment.kind is DecideStage:
        return loop.run(block, lambda state, rows, _: apply_decisions(state, rows))
    return loop.run(block, _run_maps)


class ModelWorker:
    """Ray Data actor: runs a model stage; loads the model once."""

    def __init__(self, job: SegmentJob, coordinator: CoordinatorHandle) -> None:
        self._loop = _UnitLoop(job, coordinator)
        process = worker_processes.register()
        coordinator.loads.remote(job.segment.index, process, False)
        for stage in job.segment.stages:
            assert isinstance(stage, ModelStage)
            stage.load()
        coordinator.loads.remote(job.segment.index, process, True)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Run the units of a block; returns those that were committed."""
        return self._loop.run(block, _run_maps)


def _run_maps(
    state: UnitState, rows: pa.Table, start: str | None
) -> tuple[pa.Table, list[StageAccount]]:
    maps = [stage for stage in state.job.segment.stages if isinstance(stage, MapStage)]
    return run_maps(maps, rows, start, state.unit.source)


class AskWorker:
    """Ray Data actor: runs an ask stage. Several calls run at once, on one event loop.

    Requests of all units that this worker is working on are in flight together, so that the last
    slow requests of one unit overlap with the first of the next.
    """

    def __init__(self, job: SegmentJob, coordinator: CoordinatorHandle) -> None:
        (stage,) = job.segment.stages
        assert isinstance(stage, AskStage)
        self._stage = stage
        self._job = job
        self._units = _UnitLoop(job, coordinator)
        self._asking: AskingLoop | None = None
        try:
            self._asking = AskingLoop(job, coordinator, stage.config.llm)
        except UserError as error:
            # An exception here would only kill the actor; report it with the first unit instead.
            self._broken = (
                f"{error}. It was right where the run was started, but not on the worker "
                f"{socket.gethostname()}: environment variables reach the workers of a cluster "
                "when it is started with them, or through the job's runtime environment"
            )

    def __call__(self, block: pa.Table) -> pa.Table:
        """Run the units of a block; called from several threads. Returns the committed units."""
        return self._units.run(block, self._work)

    def _work(
        self, state: UnitState, rows: pa.Table, start: str | None
    ) -> tuple[pa.Table, list[StageAccount]]:
        if self._asking is None:
            raise RunError(self._broken)
        afresh = state.failed_before if self._job.retry else []
        out, account = self._asking.ask(self._stage, state.unit.unit_id, rows, afresh)
        return out, [account]


class _UnitLoop:
    """The loop over units of every kind of worker: attempts, reuse, commits, receipts, stopping."""

    def __init__(self, job: SegmentJob, coordinator: CoordinatorHandle) -> None:
        self._job = job
        self._coordinator = coordinator
        self._process = worker_processes.register()

    def run(self, block: pa.Table, work: Work) -> pa.Table:
        """Run the units of a block, until the run is stopped; returns the committed units."""
        done = 0
        for unit in units_of(block):
            try:
                with working(self._job.storage, self._job.run_id):
                    self._run_unit(unit, work)
                done += 1
            except Stopping:
                break
            except BudgetExhausted as error:
                ray.get(self._coordinator.stop.remote("budget_exhausted", str(error)))
                break
            except (RunError, UserError) as error:
                ray.get(self._coordinator.stop.remote("failed", str(error)))
                break
        return block.slice(0, done)

    def _run_unit(self, unit: Unit, work: Work) -> None:
        segment = self._job.segment.index
        begun = ray.get(self._coordinator.begin.remote(segment, unit.unit_id, self._process))
        if begun.stop:
            raise Stopping
        state = UnitState(self._job.for_source(unit.source), unit)
        receipt = reusable(state)
        if receipt is None:
            kind = self._job.segment.kind
            if state.job.segment.kind is not kind:
                work = _run_maps  # the stage is off for these rows
            # Decisions are applied by Arrow code alone, which no row can crash.
            elif kind is not DecideStage and (begun.is_taken_apart or begun.attempt > MAX_DEATHS):
                work = self._in_isolation
            receipt = run_unit(state, work)
        self._coordinator.finished.remote(segment, receipt)

    def _in_isolation(
        self, state: UnitState, rows: pa.Table, start: str | None
    ) -> tuple[pa.Table, list[StageAccount]]:
        return run_isolated(state.job, self._coordinator, state.unit, rows, start)
