"""What is done to one unit at one segment, wherever it runs: read, work, commit, or reuse."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.hashing import fingerprint
from ray_pipeline.core.rows import KEPT, kept, set_column
from ray_pipeline.core.storage import Storage
from ray_pipeline.engine.segments import Segment, failed_rows, in_order, schema_before
from ray_pipeline.llm.config import LlmConfig
from ray_pipeline.rundir.account import StageAccount
from ray_pipeline.rundir.layout import SOURCE
from ray_pipeline.rundir.parts import PartInfo, part_path, read_info, read_rows, write_part
from ray_pipeline.rundir.units import Unit
from ray_pipeline.sources.read import read_unit
from ray_pipeline.stage import AskStage, DecideStage

#: Runs a segment's stages over kept rows, from the named stage on (None: the first).
Work = Callable[[pa.Table, str | None], tuple[pa.Table, list[StageAccount]]]


@dataclass(frozen=True)
class SegmentJob:
    """All that a worker must know of a segment. Pickled once a worker."""

    storage: Storage
    segment: Segment
    #: Folder of the segment whose kept rows are read; None where the source is.
    upstream_folder: str | None
    #: How the source is read, for `sources.read.read_unit`.
    source: Any
    #: Columns that come into the segment, the envelope included.
    input_schema: pa.Schema
    llms: Mapping[str, LlmConfig]
    #: Identity of each model's weights.
    revisions: Mapping[str, str]
    seed: int
    #: Rows of the largest unit.
    unit_rows: int
    #: Run failed rows of committed units again.
    retry: bool = False


@dataclass(frozen=True)
class Receipt:
    """That a unit is committed at a segment, and what it came to."""

    unit_id: str
    reused: bool
    accounts: list[StageAccount]


def reusable(job: SegmentJob, unit: Unit) -> Receipt | None:
    """The receipt of a part that stands: same stages, same input, and nothing to retry."""
    info = _standing(job, unit)
    if info is None or (job.retry and _retriable(info.accounts)):
        return None
    return Receipt(unit.unit_id, True, info.accounts)


def run_unit(job: SegmentJob, unit: Unit, work: Work) -> Receipt:
    """Do a unit's work and commit it.

    Raises:
        RunError: storage failed, or a stage broke its contract.
    """
    info = _standing(job, unit)
    if info is not None:
        rows, accounts = _again(job, unit, info, work)
    else:
        rows, accounts = _fresh(job, unit, work)
    for account in accounts:
        if not account.balances:
            raise RunError(f"the account of stage {account.name!r} does not balance: {account}")
    write_part(
        job.storage,
        part_path(job.segment.folder, unit.unit_id),
        rows,
        fingerprint=job.segment.fingerprint,
        input_digest=_input_digest(job, unit),
        accounts=accounts,
        durable=job.segment.kind is AskStage,
    )
    return Receipt(unit.unit_id, False, accounts)


def failed_before(job: SegmentJob, unit: Unit) -> list[str]:
    """Ids of the rows that failed when this segment last committed the unit, under any version."""
    path = part_path(job.segment.folder, unit.unit_id)
    if read_info(job.storage, path) is None:
        return []
    ids: list[str] = failed_rows(read_rows(job.storage, path))["row_id"].to_pylist()
    return ids


def _standing(job: SegmentJob, unit: Unit) -> PartInfo | None:
    info = read_info(job.storage, part_path(job.segment.folder, unit.unit_id))
    if info is None or info.fingerprint != job.segment.fingerprint:
        return None
    return info if info.input_digest == _input_digest(job, unit) else None


def missing_upstream(job: SegmentJob, unit: Unit) -> RunError:
    """The error of a unit that the segment before has not left."""
    assert job.upstream_folder is not None
    where = job.storage.uri(job.upstream_folder)
    return RunError(f"{where}: unit {unit.unit_id} is missing: delete that folder and run again")


def _input_digest(job: SegmentJob, unit: Unit) -> str:
    if job.upstream_folder is None:
        return unit.unit_id
    upstream = read_info(job.storage, part_path(job.upstream_folder, unit.unit_id))
    if upstream is None:
        raise missing_upstream(job, unit)
    if job.segment.kind is DecideStage:
        # What is decided on a unit's rows also depends on the rows of the others.
        decisions = job.storage.read_bytes(decisions_path(job.segment, unit.unit_id)) or b""
        return fingerprint(
            [upstream.digest, hashlib.blake2b(decisions, digest_size=16).hexdigest()]
        )
    return upstream.digest


def decisions_path(segment: Segment, unit_id: str) -> str:
    """Where the decisions on a unit's rows lie; there is no file when all of them are kept."""
    return f"{segment.folder}/decisions/part-{unit_id}.parquet"


def _fresh(job: SegmentJob, unit: Unit, work: Work) -> tuple[pa.Table, list[StageAccount]]:
    if job.upstream_folder is not None:
        rows = kept(read_rows(job.storage, part_path(job.upstream_folder, unit.unit_id)))
        return work(rows, None)
    read = read_unit(unit, job.source)
    account = StageAccount.of(SOURCE, read.num_rows, read)
    rows, accounts = work(kept(read), None)
    malformed = read.filter(pc.not_equal(read["status"], KEPT))
    return in_order([malformed, rows], read["row_id"].combine_chunks()), [account, *accounts]


def _retriable(accounts: list[StageAccount]) -> bool:
    # A row that could not be read from the source will not read better the next time.
    return any(account.failed for account in accounts if account.name != SOURCE)


def _again(
    job: SegmentJob, unit: Unit, info: PartInfo, work: Work
) -> tuple[pa.Table, list[StageAccount]]:
    """Run a committed unit's failed rows again, each from the stage that failed it."""
    rows = read_rows(job.storage, part_path(job.segment.folder, unit.unit_id))
    accounts = {account.name: account for account in info.accounts}
    names = [stage.name for stage in job.segment.stages]
    failed = failed_rows(rows)
    failed = failed.filter(pc.is_in(failed["stage"], pa.array(names)))
    order = rows["row_id"].combine_chunks()
    retried = [rows.filter(pc.invert(pc.is_in(order, failed["row_id"].combine_chunks())))]
    for index, name in enumerate(names):
        mine = failed.filter(pc.equal(failed["stage"], name))
        if not mine.num_rows:
            continue
        _forget(accounts[name], mine)
        entered = _as_entered(mine, schema_before(index, job.segment, job.input_schema))
        out, added = work(entered, name)
        retried.append(out)
        for account in added:
            accounts[account.name].add(account)
    return in_order(retried, order), list(accounts.values())


def _forget(account: StageAccount, failed: pa.Table) -> None:
    """Take failed rows out of the account: they are about to enter the stage again."""
    gone = StageAccount.of(account.name, failed.num_rows, failed)
    account.rows_in -= gone.failed
    account.failed -= gone.failed
    for reason, number in gone.reasons.items():
        account.reasons[reason] -= number
        if not account.reasons[reason]:
            del account.reasons[reason]


def _as_entered(failed: pa.Table, schema: pa.Schema) -> pa.Table:
    """Failed rows as they came into the stage: its columns, kept, without a reason."""
    nothing = pa.nulls(failed.num_rows, pa.string())
    rows = set_column(failed, "status", pa.array([KEPT] * failed.num_rows, pa.string()))
    rows = set_column(set_column(rows, "stage", nothing), "reason", nothing)
    names = [name for name in rows.column_names if name in schema.names]
    return rows.select(names)
