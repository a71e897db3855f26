"""Processes one unit at one segment: reuses its part, or reads, works and commits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.hashing import fingerprint
from ray_pipeline.core.rows import KEPT, failed, kept, reset_marks
from ray_pipeline.core.storage import Storage
from ray_pipeline.engine.segments import Segment, in_order, schema_before, with_source_name
from ray_pipeline.llm.config import LlmConfig
from ray_pipeline.rundir.account import LlmUsage, StageAccount
from ray_pipeline.rundir.layout import SOURCE, decisions_path, part_path, responses_folder
from ray_pipeline.rundir.parts import DamagedPart, Part, existing_part, open_part, write_part
from ray_pipeline.rundir.responses import recorded
from ray_pipeline.rundir.units import Unit
from ray_pipeline.sources.read import ReadSpec, read_unit
from ray_pipeline.stage import AskStage, DecideStage


@dataclass(frozen=True)
class UnitInput:
    """The input of a segment for one unit."""

    #: Identity of the rows.
    digest: str
    #: Reads the rows, whatever their status.
    read: Callable[[], pa.Table]


@dataclass(frozen=True)
class FromSource:
    """The input of the first segment: the rows of the source."""

    spec: ReadSpec

    def open(self, unit: Unit) -> UnitInput:
        """The input of a unit; its rows are read on demand."""
        return UnitInput(unit.unit_id, partial(read_unit, unit, self.spec))


@dataclass(frozen=True)
class FromSegment:
    """The input of every other segment: the rows that the segment before it kept."""

    storage: Storage
    folder: str

    def part(self, unit_id: str) -> Part:
        """The upstream segment's part of a unit.

        Raises:
            RunError: the part is gone; the message says how to make it again.
        """
        return existing_part(self.storage, part_path(self.folder, unit_id))

    def open(self, unit: Unit) -> UnitInput:
        """The input of a unit; its digest is read from the part's footer, its rows on demand."""
        part = self.part(unit.unit_id)
        return UnitInput(part.info.digest, part.rows)


@dataclass(frozen=True)
class SegmentJob:
    """What a worker needs to run a segment. Pickled once for each worker."""

    storage: Storage
    segment: Segment
    rows_from: FromSource | FromSegment
    #: Schema of the segment's input, the envelope included.
    input_schema: pa.Schema
    llms: Mapping[str, LlmConfig]
    #: Identity of each model's weights.
    revisions: Mapping[str, str]
    seed: int
    #: Rows of the largest unit.
    unit_rows: int
    #: Seconds that a row may take that is run alone (`engine.isolation`); None: any time.
    row_seconds: float | None = None
    #: Run failed rows of committed units again.
    retry: bool = False
    #: Id of the run, by which workers of an earlier one are told apart (`rundir.lock`).
    run_id: str = ""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # In whichever process it arrives: an exception there may quote the environment.
        for llm in self.llms.values():
            llm.remember_secrets()

    def for_source(self, source: str) -> SegmentJob:
        """This job for one source's rows: stages that do not work on them are off."""
        return replace(self, segment=self.segment.for_source(source))


@dataclass(frozen=True)
class Receipt:
    """Confirms that a unit is committed at a segment, with its accounts."""

    unit_id: str
    reused: bool
    accounts: list[StageAccount]
    #: What was wrong with the part that was there, so that the unit was made again; else None.
    damage: str | None = None


class UnitState:
    """The state of a unit at a segment, from storage. Opens every file once, on construction.

    Args:
        job: the segment.
        unit: the unit.

    Attributes:
        committed: the segment's part of the unit, possibly from another version of its stages or
            of its input; None: there is none, or it is damaged.
        damage: what is wrong with the part that is there; None: nothing.
        input: the rows to work on.
        decisions: for a decide segment, the Parquet file with the decisions on the unit's rows;
            empty where all rows are kept unchanged.
        input_digest: identity of everything that the result depends on, except the stages.

    Raises:
        RunError: the upstream segment's part is gone, or storage failed.
    """

    def __init__(self, job: SegmentJob, unit: Unit) -> None:
        self.job = job
        self.unit = unit
        self.path = part_path(job.segment.folder, unit.unit_id)
        self.damage: str | None = None
        self.committed = self._opened()
        self.input = job.rows_from.open(unit)
        self.decisions = b""
        self.input_digest = self.input.digest
        if job.segment.kind is DecideStage:
            # Decisions on a unit's rows also depend on the rows of other units.
            path = decisions_path(job.segment.folder, unit.unit_id)
            self.decisions = job.storage.read_bytes(path) or b""
            digest = hashlib.blake2b(self.decisions, digest_size=16).hexdigest()
            self.input_digest = fingerprint([self.input_digest, digest])

    def _opened(self) -> Part | None:
        try:
            return open_part(self.job.storage, self.path)
        except DamagedPart as error:
            self.set_damage(error)
            return None

    def set_damage(self, error: DamagedPart) -> None:
        """Do without the part, which is damaged: the unit is made again."""
        self.committed, self.damage = None, f"{self.path} was damaged: {error.how}"

    @property
    def valid_part(self) -> Part | None:
        """The segment's part, if these stages made it from this input; else None."""
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
    """The receipt of a unit whose part can be reused; None if it has to be run or retried."""
    part = state.valid_part
    if part is None:
        return None
    try:
        part.verify()
    except DamagedPart as error:
        state.set_damage(error)
        return None
    if state.job.retry and _has_retriable_rows(part.info.accounts):
        return None
    return Receipt(state.unit.unit_id, True, part.info.accounts)


def run_unit(state: UnitState, work: Work) -> Receipt:
    """Run a unit, or only its failed rows if its part is valid, and commit the result.

    Args:
        state: the unit.
        work: runs the segment's stages.

    Raises:
        RunError: storage failed, or a stage broke its contract.
    """
    part = state.valid_part
    before = part.info.accounts[-1].llm if part is not None else None
    rows, accounts = _run_all(state, work) if part is None else _retry_failed(state, part, work)
    rows = with_source_name(rows, state.unit.source)
    if state.job.segment.kind is AskStage:
        _count_requests(state, accounts[-1], before)
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
    )
    return Receipt(state.unit.unit_id, False, accounts, state.damage)


def _count_requests(state: UnitState, account: StageAccount, before: LlmUsage | None) -> None:
    """Replace the requests of this attempt by all those that the unit's journal holds.

    So an answer counts once, whichever attempt asked for it, and whether or not it is used.
    """
    folder = responses_folder(account.name, state.unit.unit_id)
    attempt = account.llm or LlmUsage()
    account.llm = recorded(state.job.storage, folder).committed(attempt, before)


def _run_all(state: UnitState, work: Work) -> tuple[pa.Table, list[StageAccount]]:
    """Run all kept rows of a unit's input."""
    read = state.input.read()
    rows, accounts = work(state, kept(read), None)
    if not state.job.segment.reads_source:
        return rows, accounts
    account = StageAccount.of(SOURCE, read, read)
    malformed = read.filter(pc.not_equal(read["status"], KEPT))
    return in_order([malformed, rows], read["row_id"].combine_chunks()), [account, *accounts]


def _has_retriable_rows(accounts: list[StageAccount]) -> bool:
    # A row that could not be read from the source would fail again.
    return any(account.failed for account in accounts if account.name != SOURCE)


def _retry_failed(state: UnitState, part: Part, work: Work) -> tuple[pa.Table, list[StageAccount]]:
    """Run a committed unit's failed rows again, each from the stage that failed it."""
    segment = state.job.segment
    rows = part.rows()
    accounts = {account.name: account for account in part.info.accounts}
    names = [stage.name for stage in segment.stages]
    to_retry = failed(rows)
    to_retry = to_retry.filter(pc.is_in(to_retry["stage"], pa.array(names)))
    order = rows["row_id"].combine_chunks()
    tables = [rows.filter(pc.invert(pc.is_in(order, to_retry["row_id"].combine_chunks())))]
    for index, name in enumerate(names):
        mine = to_retry.filter(pc.equal(to_retry["stage"], name))
        if not mine.num_rows:
            continue
        accounts[name].subtract_failed(mine)
        schema = schema_before(index, segment, state.job.input_schema)
        out, added = work(state, reset_marks(mine, schema.names), name)
        tables.append(out)
        for account in added:
            # Requests are not added up: the unit's journal holds those of the last commit too.
            accounts[account.name].llm = None
            accounts[account.name].add(account)
    return in_order(tables, order), list(accounts.values())
