"""Takes a unit apart whose rows kill the process that works on them, until the guilty fail alone.

A row may take its process down (a native library that crashes, memory that runs out). Rows run in
processes of their own: all together first, then in halves, down to the single row.
"""

from __future__ import annotations

import pyarrow as pa
import ray
from ray.exceptions import OutOfMemoryError, WorkerCrashedError

from ray_pipeline.core.rows import CRASHED, fail
from ray_pipeline.engine.coordinator import CoordinatorHandle
from ray_pipeline.engine.segments import checked, in_order, run_maps, schema_after
from ray_pipeline.engine.unit import SegmentJob
from ray_pipeline.rundir.account import StageAccount, total
from ray_pipeline.rundir.units import Unit
from ray_pipeline.stage import AskStage, MapStage, ModelStage


def run_isolated(
    job: SegmentJob, coordinator: CoordinatorHandle, unit: Unit, rows: pa.Table, start: str | None
) -> tuple[pa.Table, list[StageAccount]]:
    """Like the segment's own work on these rows, with each row that kills a process failed."""
    names = [stage.name for stage in job.segment.stages]
    done: list[pa.Table] = []
    accounts: list[list[StageAccount]] = []
    waiting = [rows]
    while waiting:
        some = waiting.pop()
        try:
            out, account = ray.get(_work_apart.remote(job, coordinator, unit, some, start))
        except (WorkerCrashedError, OutOfMemoryError):
            if some.num_rows > 1:
                half = some.num_rows // 2
                waiting += [some.slice(half), some.slice(0, half)]
                continue
            out, account = _crashed(job, some, start)
        done.append(out)
        accounts.append(account)
    first = names.index(start) if start else 0
    return in_order(done, rows["row_id"].combine_chunks()), total(names[first:], accounts)


def _crashed(
    job: SegmentJob, row: pa.Table, start: str | None
) -> tuple[pa.Table, list[StageAccount]]:
    """The row, failed. Which stage of a fused group killed it is not known: it names the first."""
    stages = job.segment.stages
    stage = next(stage for stage in stages if start in (None, stage.name))
    out = fail(row, pa.array([True]), CRASHED)
    out = checked(stage, row, out)
    account = StageAccount.of(stage.name, 1, out)
    for later in stages[stages.index(stage) + 1 :]:
        schema = schema_after(later, out.schema)
        out = in_order([out, schema.empty_table()], out["row_id"].combine_chunks())
    return out, [account]


@ray.remote(num_cpus=0, max_retries=0, max_calls=1)
def _work_apart(
    job: SegmentJob, coordinator: CoordinatorHandle, unit: Unit, rows: pa.Table, start: str | None
) -> tuple[pa.Table, list[StageAccount]]:
    from ray_pipeline.engine.asking import AskingLoop

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
