"""Isolates the rows of a unit that kill the worker process, so that only these rows fail.

A row may crash its process (a native library crashes, or memory runs out). The rows of the unit run
in separate processes: all together first, then in halves, down to single rows.
"""

from __future__ import annotations

import pyarrow as pa
import ray
from ray.exceptions import OutOfMemoryError, WorkerCrashedError

from ray_pipeline.core.rows import CRASHED, fail
from ray_pipeline.engine.coordinator import CoordinatorHandle
from ray_pipeline.engine.segments import checked, in_order, run_maps, schema_after
from ray_pipeline.engine.unit import SegmentJob
from ray_pipeline.engine.worker_processes import register
from ray_pipeline.rundir.account import StageAccount, total
from ray_pipeline.rundir.units import Unit
from ray_pipeline.stage import AskStage, MapStage, ModelStage


def run_isolated(
    job: SegmentJob, coordinator: CoordinatorHandle, unit: Unit, rows: pa.Table, start: str | None
) -> tuple[pa.Table, list[StageAccount]]:
    """Run a segment on a unit's rows, and fail each row that kills its process.

    Args:
        job: the segment.
        coordinator: the run's coordinator.
        unit: the unit.
        rows: its kept rows with their envelope.
        start: name of the stage to begin with; None for the first.

    Returns: the rows after the segment, and the accounts of its stages.
    """
    names = [stage.name for stage in job.segment.stages]
    done: list[pa.Table] = []
    accounts: list[list[StageAccount]] = []
    waiting = [rows]
    while waiting:
        batch = waiting.pop()
        try:
            out, account = ray.get(_run_separately.remote(job, coordinator, unit, batch, start))
        except (WorkerCrashedError, OutOfMemoryError):
            if batch.num_rows > 1:
                half = batch.num_rows // 2
                waiting += [batch.slice(half), batch.slice(0, half)]
                continue
            out, account = _crashed(job, batch, start)
        done.append(out)
        accounts.append(account)
    first = names.index(start) if start else 0
    return in_order(done, rows["row_id"].combine_chunks()), total(names[first:], accounts)


def _crashed(
    job: SegmentJob, row: pa.Table, start: str | None
) -> tuple[pa.Table, list[StageAccount]]:
    """The row, failed by the first stage: which stage of the segment crashed is not known."""
    stages = job.segment.stages
    stage = next(stage for stage in stages if start in (None, stage.name))
    out = fail(row, pa.array([True]), CRASHED)
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
        if isinstance(stage, ModelStage):
            stage.load()
        assert isinstance(stage, MapStage)
        maps.append(stage)
    return run_maps(maps, rows, start, unit.source)
