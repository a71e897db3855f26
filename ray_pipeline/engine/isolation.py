"""Isolates the rows of a unit that its workers cannot get done with, so that only these rows fail.

A row may crash its process (a native library crashes, or memory runs out), or take for ever
(`stuck`). The rows of the unit run one at a time in a process of their own; the row at which that
process dies, or which takes too long, is failed, and the rest runs in another process. The rows of
an ask stage run in halves, down to single rows.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import (
    GetTimeoutError,
    OutOfMemoryError,
    RayActorError,
    WorkerCrashedError,
)

from ray_pipeline.core.rows import CRASHED, STUCK, fail
from ray_pipeline.engine.coordinator import CoordinatorHandle
from ray_pipeline.engine.segments import checked, in_order, run_maps, schema_after
from ray_pipeline.engine.unit import SegmentJob
from ray_pipeline.engine.worker_processes import register
from ray_pipeline.rundir.account import StageAccount, total
from ray_pipeline.rundir.units import Unit
from ray_pipeline.stage import AskStage, MapStage, ModelStage, Stage

#: Rows after a segment, and the accounts of its stages.
Result = tuple[pa.Table, list[StageAccount]]


def run_isolated(
    job: SegmentJob, coordinator: CoordinatorHandle, unit: Unit, rows: pa.Table, start: str | None
) -> tuple[pa.Table, list[StageAccount]]:
    """Run a segment on a unit's rows, and fail each row that kills its process or never ends.

    Args:
        job: the segment.
        coordinator: the run's coordinator.
        unit: the unit.
        rows: its kept rows with their envelope.
        start: name of the stage to begin with; None for the first.

    Returns: the rows after the segment, and the accounts of its stages.
    """
    run = _in_halves if job.segment.kind is AskStage else _one_at_a_time
    results = run(job, coordinator, unit, rows, start)
    names = [stage.name for stage in job.segment.stages]
    first = names.index(start) if start else 0
    order = rows["row_id"].combine_chunks()
    tables, accounts = [out for out, _ in results], [account for _, account in results]
    return in_order(tables, order), total(names[first:], accounts)


def _one_at_a_time(
    job: SegmentJob, coordinator: CoordinatorHandle, unit: Unit, rows: pa.Table, start: str | None
) -> list[Result]:
    if not rows.num_rows:
        return [ray.get(_run_separately.remote(job, coordinator, unit, rows, start))]
    results: list[Result] = []
    while len(results) < rows.num_rows:
        rest = rows.slice(len(results))
        actor = ray.remote(_Rows).options(num_cpus=0, max_restarts=0, max_task_retries=0)
        process: Any = actor.remote(job, coordinator, unit, rest, start)
        ray.get(process.ready.remote())  # the models are loaded
        for number in range(rest.num_rows):
            try:
                results.append(ray.get(process.run.remote(number), timeout=job.row_seconds))
            except (GetTimeoutError, RayActorError, OutOfMemoryError) as error:
                reason = STUCK if isinstance(error, GetTimeoutError) else CRASHED
                results.append(_failed(job, rest.slice(number, 1), start, reason))
                break
        ray.kill(process)
    return results


def _in_halves(
    job: SegmentJob, coordinator: CoordinatorHandle, unit: Unit, rows: pa.Table, start: str | None
) -> list[Result]:
    """For requests: one at a time they would take the unit's time times its rows."""
    results: list[Result] = []
    waiting = [rows]
    while waiting:
        batch = waiting.pop()
        try:
            result = ray.get(_run_separately.remote(job, coordinator, unit, batch, start))
            results.append(result)
        except (WorkerCrashedError, OutOfMemoryError):
            if batch.num_rows > 1:
                half = batch.num_rows // 2
                waiting += [batch.slice(half), batch.slice(0, half)]
            else:
                results.append(_failed(job, batch, start, CRASHED))
    return results


def _failed(
    job: SegmentJob, row: pa.Table, start: str | None, reason: str
) -> tuple[pa.Table, list[StageAccount]]:
    """The row, failed by the first stage: which stage of the segment it was is not known."""
    stages = job.segment.stages
    stage = next(stage for stage in stages if start in (None, stage.name))
    out = fail(row, pa.array([True]), reason)
    out = checked(stage, row, out)
    account = StageAccount.of(stage.name, row, out)
    for later in stages[stages.index(stage) + 1 :]:
        schema = schema_after(later, out.schema)
        out = in_order([out, pa.Table.from_batches([], schema)], out["row_id"].combine_chunks())
    return out, [account]


@ray.remote(num_cpus=0, max_retries=0, max_calls=1)
def _run_separately(
    job: SegmentJob, coordinator: CoordinatorHandle, unit: Unit, rows: pa.Table, start: str | None
) -> tuple[pa.Table, list[StageAccount]]:
    from ray_pipeline.engine.asking import AskingLoop

    coordinator.moved.remote(job.segment.index, unit.unit_id, register())
    maps: list[MapStage] = []
    for stage in job.segment.stages:
        if isinstance(stage, AskStage):
            asking = AskingLoop(job, coordinator, stage.config.llm)
            out, account = asking.ask(stage, unit.unit_id, rows, [])
            return out, [account]
        maps.append(_loaded(stage))
    return run_maps(maps, rows, start, unit.source)


class _Rows:
    """A process that runs rows one at a time. Each is a call, so the row that ends it is known."""

    def __init__(
        self,
        job: SegmentJob,
        coordinator: CoordinatorHandle,
        unit: Unit,
        rows: pa.Table,
        start: str | None,
    ) -> None:
        self._unit, self._rows, self._start = unit, rows, start
        coordinator.moved.remote(job.segment.index, unit.unit_id, register())
        self._stages = [_loaded(stage) for stage in job.segment.stages]

    def ready(self) -> None:
        """Return when the process has started."""

    def run(self, number: int) -> Result:
        """Run the row at this place."""
        row = self._rows.slice(number, 1)
        return run_maps(self._stages, row, self._start, self._unit.source)


def _loaded(stage: Stage) -> MapStage:
    if isinstance(stage, ModelStage):
        stage.load()
    assert isinstance(stage, MapStage)
    return stage
