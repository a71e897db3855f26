"""What is done to one unit at one segment, wherever it runs: read, work, commit, or reuse."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.hashing import fingerprint
from ray_pipeline.core.rows import KEPT, failed, kept, reset_marks
from ray_pipeline.core.storage import Storage
from ray_pipeline.engine.segments import Segment, in_order, of_source, schema_before
from ray_pipeline.llm.config import LlmConfig
from ray_pipeline.rundir.account import StageAccount
from ray_pipeline.rundir.layout import SOURCE, decisions_path, part_path
from ray_pipeline.rundir.parts import Part, existing_part, open_part, write_part
from ray_pipeline.rundir.units import Unit
from ray_pipeline.sources.read import ReadSpec, read_unit
from ray_pipeline.stage import AskStage, DecideStage


@dataclass(frozen=True)
class UnitInput:
    """What a segment works on of one unit."""

    #: Identity of the rows.
    digest: str
    #: Reads them, kept ones and others.
    read: Callable[[], pa.Table]


@dataclass(frozen=True)
class FromSource:
    """The rows that the first segment works on: those of the source."""

    spec: ReadSpec

    def open(self, unit: Unit) -> UnitInput:
        """A unit's rows, which are read when they are needed."""
        return UnitInput(unit.unit_id, partial(read_unit, unit, self.spec))


@dataclass(frozen=True)
class FromSegment:
    """The rows that every other segment works on: those that the one before it kept."""

    storage: Storage
    folder: str

    def part(self, unit_id: str) -> Part:
        """A unit's part.

        Raises:
            RunError: it is gone; the message names it, and says how to make it again.
        """
        return existing_part(self.storage, part_path(self.folder, unit_id))

    def open(self, unit: Unit) -> UnitInput:
        """A unit's rows, whose identity stands in the footer of their part."""
        part = self.part(unit.unit_id)
        return UnitInput(part.info.digest, part.rows)


@dataclass(frozen=True)
class SegmentJob:
    """What a worker needs to run a segment. Pickled once a worker."""

    storage: Storage
    segment: Segment
    rows_from: FromSource | FromSegment
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

    def for_source(self, source: str) -> SegmentJob:
        """The same for the rows of a source: stages that do not work on them are off."""
        return replace(self, segment=self.segment.for_source(source))


@dataclass(frozen=True)
class Receipt:
    """That a unit is committed at a segment, and what it came to."""

    unit_id: str
    reused: bool
    accounts: list[StageAccount]


class UnitState:
    """A unit as a segment finds it on storage. Every file is opened once, when this is made.

    Args:
        job: the segment.
        unit: the unit.

    Attributes:
        committed: the segment's own part, by whichever version of its stages; None: there is none.
        input: the rows to work on.
        decisions: the file with the decisions on the unit's rows (Parquet), of a segment that
            decides; empty where all rows are kept as they are.
        input_digest: identity of all that the unit's work depends on beside the stages.

    Raises:
        RunError: the part of the segment before is gone, or storage failed.
    """

    def __init__(self, job: SegmentJob, unit: Unit) -> None:
        self.job = job
        self.unit = unit
        self.path = part_path(job.segment.folder, unit.unit_id)
        self.committed = open_part(job.storage, self.path)
        self.input = job.rows_from.open(unit)
        self.decisions = b""
        self.input_digest = self.input.digest
        if job.segment.kind is DecideStage:
            # What is decided on a unit's rows also depends on the rows of the others.
            path = decisions_path(job.segment.folder, unit.unit_id)
            self.decisions = job.storage.read_bytes(path) or b""
            digest = hashlib.blake2b(self.decisions, digest_size=16).hexdigest()
            self.input_digest = fingerprint([self.input_digest, digest])

    @property
    def standing(self) -> Part | None:
        """The segment's part, if these stages made it of this input."""
        if self.committed is None:
            return None
        info = self.committed.info
        identity = (self.job.segment.fingerprint, self.input_digest)
        return self.committed if (info.fingerprint, info.input_digest) == identity else None

    @property
    def failed_before(self) -> list[str]:
        """Ids of the rows that failed when the unit was last committed, under any version."""
        if self.committed is None:
            return []
        ids: list[str] = failed(self.committed.rows())["row_id"].to_pylist()
        return ids


#: Runs a segment's stages over kept rows, from the named stage on (None: the first).
Work = Callable[[UnitState, pa.Table, str | None], tuple[pa.Table, list[StageAccount]]]


def reusable(state: UnitState) -> Receipt | None:
    """The receipt of a part that stands: same stages, same input, and nothing to retry."""
    part = state.standing
    if part is None or (state.job.retry and _retriable(part.info.accounts)):
        return None
    return Receipt(state.unit.unit_id, True, part.info.accounts)


def run_unit(state: UnitState, work: Work) -> Receipt:
    """Do a unit's work and commit it.

    Raises:
        RunError: storage failed, or a stage broke its contract.
    """
    part = state.standing
    rows, accounts = _fresh(state, work) if part is None else _again(state, part, work)
    rows = of_source(rows, state.unit.source)
    for account in accounts:
        account.set_source(state.unit.source)
        if not account.balances:
            raise RunError(f"the account of stage {account.name!r} does not balance: {account}")
    segment = state.job.segment
    write_part(
        state.job.storage,
        state.path,
        rows,
        fingerprint=segment.fingerprint,
        input_digest=state.input_digest,
        accounts=accounts,
        durable=segment.kind is AskStage,
    )
    return Receipt(state.unit.unit_id, False, accounts)


def _fresh(state: UnitState, work: Work) -> tuple[pa.Table, list[StageAccount]]:
    read = state.input.read()
    rows, accounts = work(state, kept(read), None)
    if not state.job.segment.reads_source:
        return rows, accounts
    account = StageAccount.of(SOURCE, read.num_rows, read)
    malformed = read.filter(pc.not_equal(read["status"], KEPT))
    return in_order([malformed, rows], read["row_id"].combine_chunks()), [account, *accounts]


def _retriable(accounts: list[StageAccount]) -> bool:
    # A row that could not be read from the source will not read better the next time.
    return any(account.failed for account in accounts if account.name != SOURCE)


def _again(state: UnitState, part: Part, work: Work) -> tuple[pa.Table, list[StageAccount]]:
    """Run a committed unit's failed rows again, each from the stage that failed it."""
    segment = state.job.segment
    rows = part.rows()
    accounts = {account.name: account for account in part.info.accounts}
    names = [stage.name for stage in segment.stages]
    to_retry = failed(rows)
    to_retry = to_retry.filter(pc.is_in(to_retry["stage"], pa.array(names)))
    order = rows["row_id"].combine_chunks()
    retried = [rows.filter(pc.invert(pc.is_in(order, to_retry["row_id"].combine_chunks())))]
    for index, name in enumerate(names):
        mine = to_retry.filter(pc.equal(to_retry["stage"], name))
        if not mine.num_rows:
            continue
        accounts[name].subtract_failed(mine)
        schema = schema_before(index, segment, state.job.input_schema)
        out, added = work(state, reset_marks(mine, schema.names), name)
        retried.append(out)
        for account in added:
            accounts[account.name].add(account)
    return in_order(retried, order), list(accounts.values())
