"""Isolates the rows of a unit that its workers cannot get done with, so that only these rows fail.

A row may crash its process (a native library crashes, or memory runs out). The rows of the unit run
in separate processes: all together first, then in halves, down to single rows.

A row may also take for ever (`stuck`). The rows of the unit run one at a time in a process of their
own; one that takes too long is failed, its process is ended, and the rest runs in another.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import OutOfMemoryError, WorkerCrashedError

from ray_pipeline.core.rows import CRASHED, STUCK, fail
from ray_pipeline.engine.coordinator import CoordinatorHandle
from ray_pipeline.engine.segments import checked, in_order, run_maps, schema_after
from ray_pipeline.engine.unit import SegmentJob
from ray_pipeline.engine.worker_processes import register
from ray_pipeline.rundir.account import StageAccount, total
from ray_pipeline.rundir.units import Unit
from ray_pipeline.stage import AskStage, MapStage, ModelStage, Stage


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
            out, account = _failed(job, batch, start, CRASHED)
        done.append(out)
        accounts.append(account)
    first = names.index(start) if start else 0
    return in_order(done, rows["row_id"].combine_chunks()), total(names[first:], accounts)


def run_one_at_a_time(
    job: SegmentJob,
    coordinator: CoordinatorHandle,
    unit: Unit,
    rows: pa.Table,
    start: str | None,
    row_seconds: float,
) -> tuple[pa.Table, list[StageAccount]]:
    """Run map stages or a model stage on single rows, and fail each row that takes too long.

    Args:
        job: the segment.
        coordinator: the run's coordinator.
        unit: the unit.
        rows: its kept rows with their envelope.
        start: name of the stage to begin with; None for the first.
        row_seconds: seconds that a row may take.

    Returns: the rows after the segment, and the accounts of its stages.
    """
    if not rows.num_rows:
        return run_isolated(job, coordinator, unit, rows, start)
    names = [stage.name for stage in job.segment.stages]
    first = names.index(start) if start else 0
    results: list[tuple[pa.Table, list[StageAccount]]] = []
    while len(results) < rows.num_rows:
        rest = rows.slice(len(results))
        # Ray types a generator's reference as one to its last value.
        stream: Any = _stream_rows.remote(job, coordinator, unit, rest, start)
        ray.get(next(stream))  # the models are loaded
        for number in range(rest.num_rows):
            ready, _ = ray.wait([stream], timeout=row_seconds)
            try:
                if not ready:
                    ray.cancel(stream, force=True)
                    raise TimeoutError
                results.append(ray.get(next(stream)))
            except (TimeoutError, WorkerCrashedError, OutOfMemoryError) as error:
                reason = STUCK if isinstance(error, TimeoutError) else CRASHED
                results.append(_failed(job, rest.slice(number, 1), start, reason))
                break
    tables, accounts = zip(*results, strict=True)
    return in_order(list(tables), rows["row_id"].combine_chunks()), total(names[first:], accounts)


def _failed(
    job: SegmentJob, row: pa.Table, start: str | None, reason: str
) -> tuple[pa.Table, list[StageAccount]]:
    """The row, failed by the first stage: which stage of the segment it was is not known."""
    stages = job.segment.stages
    stage = next(stage for stage in stages if start in (None, stage.name))
    out = fail(row, pa.array([True]), reason)
    out = checked(stage, row, out)
    account = StageAccount.of(stage.name, 1, out)
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


@ray.remote(num_cpus=0, max_retries=0, max_calls=1)
def _stream_rows(
    job: SegmentJob, coordinator: CoordinatorHandle, unit: Unit, rows: pa.Table, start: str | None
) -> Iterator[tuple[pa.Table, list[StageAccount]] | None]:
    """None as soon as the models are loaded, then the result of each row when it is done."""
    coordinator.moved.remote(job.segment.index, unit.unit_id, register())
    maps = [_loaded(stage) for stage in job.segment.stages]
    yield None
    for number in range(rows.num_rows):
        yield run_maps(maps, rows.slice(number, 1), start, unit.source)


def _loaded(stage: Stage) -> MapStage:
    if isinstance(stage, ModelStage):
        stage.load()
    assert isinstance(stage, MapStage)
    return stage
