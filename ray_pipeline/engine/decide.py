"""Runs a decide stage: keys out of the rows, groups through Ray Data's shuffle, decisions back.

Only keys and scores travel. The decisions on a unit's rows are a small table on storage, which is
then applied to the unit like a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray.data
from ray.exceptions import RayTaskError

from ray_pipeline.engine.account import StageAccount
from ray_pipeline.engine.blocks import unit_blocks
from ray_pipeline.engine.fingerprint import fingerprint, set_digest
from ray_pipeline.engine.parts import part_path, read_info, read_rows
from ray_pipeline.engine.segment import checked, in_order
from ray_pipeline.engine.unit_work import SegmentJob, decisions_path
from ray_pipeline.errors import RunError
from ray_pipeline.rows import kept, set_column
from ray_pipeline.sources.unit import Unit
from ray_pipeline.stage import DecideStage
from ray_pipeline.storage import Storage

_UNIT = "_unit_id"


def decide(job: SegmentJob, units: Sequence[Unit]) -> None:
    """Make the decisions of the job's stage over all units, and put them on storage.

    A second call with the same stage and the same input finds them there and does nothing.

    Raises:
        RunError: the stage broke its contract, or storage failed.
    """
    identity = _identity(job, units)
    marker = f"{job.segment.folder}/decisions/done.json"
    if job.storage.read_bytes(marker) == identity.encode():
        return
    job.storage.delete(marker)  # first: what is left of a killed run must not look complete
    for path in list(job.storage.list(f"{job.segment.folder}/decisions")):
        job.storage.delete(path)
    stage = _stage(job)
    written = (
        ray.data.from_arrow(unit_blocks(units, 8))
        .map_batches(partial(_keys, job=job), batch_format="pyarrow", batch_size=None)
        .groupby(stage.group_by)
        .map_groups(partial(_decisions, job=job), batch_format="pyarrow")
        .groupby(_UNIT)
        .map_groups(partial(_write, job=job), batch_format="pyarrow")
    )
    try:
        for _ in written.iter_batches(batch_format="pyarrow"):
            pass
    except Exception as error:
        raise _explained(stage, error) from error
    job.storage.write_bytes(marker, identity.encode())


def _explained(stage: DecideStage, error: Exception) -> RunError:
    """Ray's error as one that names the stage and what it raised."""
    cause = error
    while isinstance(cause, RayTaskError):
        cause = cause.cause
    if isinstance(cause, RunError):
        return cause
    first_line = str(cause).strip().split("\n")[0]
    return RunError(f"stage {stage.name!r} cannot decide: {type(cause).__name__}: {first_line}")


def _identity(job: SegmentJob, units: Sequence[Unit]) -> str:
    assert job.upstream_folder is not None
    digests = []
    for unit in units:
        info = read_info(job.storage, part_path(job.upstream_folder, unit.unit_id))
        if info is None:
            raise RunError(f"unit {unit.unit_id} is missing in {job.upstream_folder}")
        digests.append(f"{unit.unit_id}:{info.digest}")
    return fingerprint([job.segment.fingerprint, set_digest(digests)])


def _stage(job: SegmentJob) -> DecideStage:
    (stage,) = job.segment.stages
    assert isinstance(stage, DecideStage)
    return stage


def _keys(block: pa.Table, job: SegmentJob) -> pa.Table:
    assert job.upstream_folder is not None
    stage = _stage(job)
    tables = []
    for unit_id in block["unit_id"].to_pylist():
        rows = kept(read_rows(job.storage, part_path(job.upstream_folder, unit_id)))
        keys = stage.keys(rows)
        tables.append(keys.append_column(_UNIT, pa.array([unit_id] * keys.num_rows, pa.string())))
    return pa.concat_tables(tables)


def _decisions(group: pa.Table, job: SegmentJob) -> pa.Table:
    stage = _stage(job)
    # Sorted, so that a decision never depends on how blocks arrived.
    group = group.sort_by("row_id")
    made = stage.decide(group.drop_columns([_UNIT]))
    schema = _decision_schema(stage)
    made = made.select(schema.names).cast(schema)
    at = pc.index_in(made["row_id"], group["row_id"].combine_chunks())
    return made.append_column(_UNIT, group[_UNIT].combine_chunks().take(at))


def _decision_schema(stage: DecideStage) -> pa.Schema:
    evidence = [pa.field(name, kind) for name, kind in stage.writes.items()]
    names = ("row_id", "status", "reason")
    return pa.schema([pa.field(name, pa.string()) for name in names] + evidence)


def _write(group: pa.Table, job: SegmentJob) -> pa.Table:
    unit_id = group[_UNIT][0].as_py()
    sink = pa.BufferOutputStream()
    pq.write_table(group.drop_columns([_UNIT]).sort_by("row_id"), sink)
    job.storage.write_bytes(decisions_path(job.segment, unit_id), sink.getvalue())
    return pa.table({"unit_id": [unit_id]})


def apply_decisions(
    job: SegmentJob, unit_id: str, rows: pa.Table
) -> tuple[pa.Table, list[StageAccount]]:
    """A unit's rows with their decisions: the work of a decide segment on one unit."""
    stage = _stage(job)
    made = _read_decisions(job.storage, decisions_path(job.segment, unit_id), stage)
    ids = rows["row_id"].combine_chunks()
    at = pc.index_in(ids, made["row_id"].combine_chunks())
    decided = pc.is_valid(at)
    out = rows
    for name in (*stage.writes, "status", "reason"):
        values = made[name].combine_chunks().take(at)
        if name in rows.column_names:
            values = pc.if_else(decided, values, rows[name])
        out = set_column(out, name, values)
    out = checked(stage, rows, in_order([out], ids))
    return out, [StageAccount.of(stage.name, rows.num_rows, out)]


def _read_decisions(storage: Storage, path: str, stage: DecideStage) -> pa.Table:
    try:
        with storage.open(path) as file:
            return pq.read_table(file)
    except FileNotFoundError:
        return _decision_schema(stage).empty_table()
