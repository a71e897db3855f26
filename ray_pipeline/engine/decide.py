"""Runs a decide stage: extracts keys from the rows, runs the stage on them, applies its decisions.

Only keys and scores are exchanged between processes, in files (see `stored_tables`). The decisions
on a unit's rows are a small table on storage, which is then applied to the unit like a map.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from ray.exceptions import RayTaskError

from ray_pipeline.core.errors import RunError, cause_in_words
from ray_pipeline.core.hashing import fingerprint, set_digest
from ray_pipeline.core.rows import kept, set_column
from ray_pipeline.core.storage import Storage
from ray_pipeline.core.tables import REF
from ray_pipeline.engine.segments import checked, in_order, works_on
from ray_pipeline.engine.stored_tables import StepExecutor, StoredTables, Task, Written
from ray_pipeline.engine.unit import FromSegment, SegmentJob, UnitState
from ray_pipeline.rundir.account import StageAccount
from ray_pipeline.rundir.checksums import DamagedFile, with_checksums
from ray_pipeline.rundir.decisions import are_decided, mark_decided, stored_decisions
from ray_pipeline.rundir.layout import DONE, decisions_folder, decisions_path
from ray_pipeline.rundir.lock import working
from ray_pipeline.rundir.parts import PartInfo
from ray_pipeline.rundir.units import Unit
from ray_pipeline.stage import DecideStage

#: Rows whose keys one task extracts: a sixteenth of all rows, within these bounds.
_LEAST_CHUNK, _MOST_CHUNK = 5_000, 100_000
#: Seconds between two progress lines of a step.
_REPORT_EVERY = 10.0


def decide(
    job: SegmentJob,
    units: Sequence[Unit],
    infos: Sequence[PartInfo],
    say: Callable[[str], None],
) -> None:
    """Make the decisions of a decide stage over all units, and store them.

    A second call with the same stage and input finds the decisions and does nothing. A call after
    the process was killed continues from the last finished task.

    Args:
        job: the segment.
        units: all units; those of sources that the stage does not work on are left out.
        infos: the footers of the parts that the stage reads, one for each unit.
        say: called with lines on the progress.

    Raises:
        RunError: the stage raised an exception or broke its contract, or storage failed.
    """
    stage = _stage(job)
    mine = [(u, i) for u, i in zip(units, infos, strict=True) if works_on(stage, u.source)]
    units, infos = [unit for unit, _ in mine], [info for _, info in mine]
    identity = fingerprint(
        [
            job.segment.fingerprint,
            set_digest(f"{u.unit_id}:{i.digest}" for u, i in zip(units, infos, strict=True)),
        ]
    )
    folder = decisions_folder(job.segment.folder)
    marker = f"{folder}/{DONE}"
    # The number: keys that an older version made half of would not be equal to ours.
    work_folder = f"{folder}/work-2-{identity[:16]}"
    if are_decided(job.storage, job.segment.folder, identity, say):
        job.storage.delete_folder(work_folder)  # left by an attempt that ended just before
        return
    # The marker goes first: decisions of an earlier run, or half of these, must not look complete.
    job.storage.delete(marker)
    if not job.storage.exists(work_folder):
        job.storage.delete_folder(folder)
    source = _KeysOfUnits.of(job, units, infos)
    run = partial(
        run_tasks, say=lambda text: say(f"deciding {stage.name}, {text}"), run_id=job.run_id
    )
    first_units = tuple(chunk[0] for chunk in source.chunks)
    executor = StepExecutor(job.storage, work_folder, run, first_units)
    try:
        decisions = stage.decide(StoredTables(executor, source))
        assert isinstance(decisions, StoredTables)
        write = partial(_write_decisions, job, tuple(unit.unit_id for unit in units))
        decisions.map(partial(_canonical, stage)).by_chunk().map(write).saved()
    except Exception as error:
        raise _explained(stage, error) from error
    mark_decided(job.storage, job.segment.folder, identity)
    job.storage.delete_folder(work_folder)


def _explained(stage: DecideStage, error: Exception) -> RunError:
    """A RunError that names the stage and the exception it raised, for one of Ray's."""
    cause = error
    while isinstance(cause, RayTaskError):
        cause = cause.cause
    if isinstance(cause, RunError):
        return cause
    return RunError(f"stage {stage.name!r} cannot decide: {cause_in_words(cause)}")


def _stage(job: SegmentJob) -> DecideStage:
    (stage,) = job.segment.stages
    assert isinstance(stage, DecideStage)
    return stage


@dataclass(frozen=True)
class _KeysOfUnits:
    """The keys that the stage extracts from its input rows: the input table of `decide`."""

    stage: DecideStage
    rows_from: FromSegment
    unit_ids: tuple[str, ...]
    #: First and last unit (exclusive) of each part.
    chunks: tuple[tuple[int, int], ...]
    rows: int

    @classmethod
    def of(cls, job: SegmentJob, units: Sequence[Unit], infos: Sequence[PartInfo]) -> _KeysOfUnits:
        """Cut the units into chunks, by their numbers of rows alone, so a re-run cuts the same."""
        kept_rows = [info.accounts[-1].kept for info in infos]
        total = sum(kept_rows)
        target = min(_MOST_CHUNK, max(_LEAST_CHUNK, total // 16))
        chunks: list[tuple[int, int]] = []
        first = rows = 0
        for ordinal, number in enumerate(kept_rows):
            rows += number
            if rows >= target:
                chunks.append((first, ordinal + 1))
                first, rows = ordinal + 1, 0
        if first < len(units) or not chunks:
            chunks.append((first, len(units)))
        # Only the first segment reads the source, and a stage that decides is never in it.
        assert isinstance(job.rows_from, FromSegment)
        unit_ids = tuple(unit.unit_id for unit in units)
        return cls(_stage(job), job.rows_from, unit_ids, tuple(chunks), total)

    @property
    def parts(self) -> int:
        """The number of chunks."""
        return len(self.chunks)

    def load(self, storage: Storage, part: int) -> pa.Table:
        """The keys of a chunk's rows; the rows of one unit at a time are in memory."""
        columns = list(dict.fromkeys(["row_id", "parent_id", "status", *self.stage.reads]))
        keys = []
        for ordinal in range(*self.chunks[part]):
            rows = kept(self.rows_from.part(self.unit_ids[ordinal]).rows(columns))
            refs = (ordinal << 32) + np.arange(rows.num_rows, dtype=np.int64)
            keys.append(self.stage.keys(rows.append_column(REF, pa.array(refs)).combine_chunks()))
        return pa.concat_tables(keys).combine_chunks()


def _canonical(stage: DecideStage, decisions: pa.Table) -> pa.Table:
    """The decisions with the columns and types that the stage declares."""
    schema = _decision_schema(stage)
    if missing := set(schema.names) - set(decisions.column_names):
        raise RunError(f"stage {stage.name!r} decides without {sorted(missing)}")
    return decisions.select(schema.names).cast(schema)


def _decision_schema(stage: DecideStage) -> pa.Schema:
    evidence = [pa.field(name, kind) for name, kind in stage.writes.items()]
    marks = [pa.field(name, pa.string()) for name in ("status", "reason")]
    return pa.schema([pa.field(REF, pa.int64()), *marks, *evidence])


def _write_decisions(job: SegmentJob, unit_ids: Sequence[str], decisions: pa.Table) -> pa.Table:
    """Store the decisions of a part, in a file for each unit; returns the units' ordinals."""
    refs = decisions[REF].to_numpy()
    if (refs[1:] == refs[:-1]).any():
        raise RunError(f"stage {job.segment.name!r} decided twice on a row")
    ordinals, starts = np.unique(refs >> 32, return_index=True)
    bounds = pairwise([*starts.tolist(), len(refs)])
    for ordinal, (start, end) in zip(ordinals.tolist(), bounds, strict=True):
        sink = pa.BufferOutputStream()
        pq.write_table(decisions.slice(start, end - start), sink)
        path = decisions_path(job.segment.folder, unit_ids[ordinal])
        job.storage.write_bytes(path, with_checksums(sink.getvalue()))
    return pa.table({REF: pa.array(ordinals)})


def apply_decisions(state: UnitState, rows: pa.Table) -> tuple[pa.Table, list[StageAccount]]:
    """Apply the stored decisions to a unit's rows: the work of a decide segment on one unit.

    Args:
        state: the unit, with its decisions.
        rows: its kept rows with their envelope.

    Returns: the rows after the stage, and its account.
    """
    stage = _stage(state.job)
    decisions = _decision_schema(stage).empty_table()
    if state.decisions:
        decisions = _stored_decisions(state)
    positions = pa.array(np.arange(rows.num_rows))
    at = pc.index_in(positions, pc.bit_wise_and(decisions[REF], 0xFFFFFFFF).combine_chunks())
    decided = pc.is_valid(at)
    out = rows
    for name in stage.writes:
        values = decisions[name].combine_chunks().take(at)
        if name in rows.column_names:
            values = pc.if_else(decided, values, rows[name])
        out = set_column(out, name, values)
    # A decision without a status keeps the row and only writes evidence.
    marked = pc.is_valid(decisions["status"].combine_chunks().take(at))
    for name in ("status", "reason"):
        values = decisions[name].combine_chunks().take(at)
        out = set_column(out, name, pc.if_else(marked, values, rows[name]))
    out = checked(stage, rows, in_order([out], rows["row_id"].combine_chunks()))
    account = StageAccount.of(stage.name, rows, out)
    counts: Counter[str] = Counter()
    stage.count(out, counts)
    account.counts = {name: number for name, number in sorted(counts.items()) if number}
    return out, [account]


def _stored_decisions(state: UnitState) -> pa.Table:
    """The decisions on a unit's rows.

    Raises:
        DamagedFile: they are not what was written; they do not count as made any more.
    """
    folder, storage = state.job.segment.folder, state.job.storage
    path = decisions_path(folder, state.unit.unit_id)
    try:
        return stored_decisions(storage, path, state.decisions)
    except DamagedFile:
        storage.delete(f"{decisions_folder(folder)}/{DONE}")
        raise


def run_tasks(
    what: str,
    tasks: Sequence[Task],
    say: Callable[[str], None] = lambda text: None,
    run_id: str = "",
) -> list[Written]:
    """Run the tasks of a step as Ray tasks, a bounded number at a time.

    Args:
        what: name of the step, for progress lines.
        tasks: its tasks.
        say: called with progress lines during long steps.
        run_id: id of the run that the tasks work for.

    Returns: the results, in the order of ``tasks``.

    Raises:
        RayTaskError: a task raised an exception; no further one is started.
    """
    waiting = list(enumerate(tasks))[::-1]
    running: dict[Any, int] = {}
    written: dict[int, Written] = {}
    last_report = time.monotonic()
    # Tasks in flight are not cancelled where one fails: Ray 2.60 ends the whole process, without a
    # word, if a task completes while it is being cancelled ("Tried to complete task that was not
    # pending"). They end by themselves, and what they write is what they would write again.
    while waiting or running:
        most = 4 * int(ray.cluster_resources().get("CPU", 1))
        while waiting and len(running) < most:
            number, task = waiting.pop()
            running[_run_task.remote(task, run_id)] = number
        done, _ = ray.wait(list(running), timeout=1.0)
        for reference in done:
            written[running.pop(reference)] = ray.get(reference)
        if time.monotonic() - last_report > _REPORT_EVERY:
            say(f"{what}: {len(written)} of {len(tasks)} parts")
            last_report = time.monotonic()
    return [written[number] for number in range(len(tasks))]


# Ray retries after a lost node or worker, but not after an exception: that would repeat itself.
@ray.remote(num_cpus=1, max_retries=10, retry_exceptions=False)
def _run_task(task: Task, run_id: str) -> Written:
    with working(task.storage, run_id):
        return task.run()
