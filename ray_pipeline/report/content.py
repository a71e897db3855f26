"""What a report says, as plain data: everything is read from the run directory, nothing made up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ray_pipeline.core.rows import DROPPED, FAILED, reason_code
from ray_pipeline.core.storage import Storage, filesystem
from ray_pipeline.report.sections.effort import EffortRow, effort
from ray_pipeline.report.sections.embedding_map import EmbeddingMap, embedding_map
from ray_pipeline.report.sections.evaluation import Evaluation, evaluation
from ray_pipeline.report.sections.examples import (
    RestingRow,
    SegmentExamples,
    changed_rows,
    resting_rows,
)
from ray_pipeline.report.sections.flow import FlowRow, flow
from ray_pipeline.report.sections.groups import Duplicates, Shared, duplicates, shared
from ray_pipeline.report.sections.lengths import Lengths, lengths
from ray_pipeline.report.sections.samples import Samples, samples
from ray_pipeline.report.sections.scorers import Scorers, scorers
from ray_pipeline.report.sections.search import Search, search
from ray_pipeline.report.sections.subsets import SubsetLine, subset_lines
from ray_pipeline.report.sections.tradeoff import Tradeoff, tradeoff
from ray_pipeline.report.sections.training import TrainingSection, training_section
from ray_pipeline.report.sections.versions import Versions, versions
from ray_pipeline.rundir.account import LlmUsage, StageAccount
from ray_pipeline.rundir.ledger import LedgerEntry
from ray_pipeline.rundir.reader import RunReader
from ray_pipeline.rundir.rows import Rows

#: Columns whose rows with one value have one text in common.
SHARED = ("same_question_group", "same_answer_group")


@dataclass(frozen=True)
class StageLine:
    """One line of the account, checked."""

    entry: LedgerEntry
    #: Rows that the stage before kept and this one has not read.
    unread: int
    #: Whether that is because the run has not come to its end.
    may_wait: bool

    @property
    def account(self) -> StageAccount:
        """The stage's rows."""
        return self.entry.account

    @property
    def off_by(self) -> int:
        """``rows_in + created - kept - dropped - failed``: nothing, where all is well."""
        account = self.account
        return account.rows_in + account.created - account.kept - account.dropped - account.failed

    @property
    def is_right(self) -> bool:
        """Whether each row is accounted for, and each row of the stage before was read."""
        return self.off_by == 0 and (self.unread == 0 or (self.may_wait and self.unread > 0))


@dataclass(frozen=True)
class Totals:
    """The run as one equation, and what it took."""

    read: int
    created: int
    kept: int
    dropped: int
    failed: int
    #: Kept by some stage and not read by the next one, because the run has not come so far.
    waiting: int
    llm: LlmUsage

    @property
    def balance(self) -> bool:
        """Whether every row is accounted for."""
        came = self.read + self.created
        return came == self.kept + self.dropped + self.failed + self.waiting


@dataclass(frozen=True)
class ReasonLine:
    """How many rows left a stage for one reason, and some of them."""

    stage: str
    #: ``dropped`` or ``failed``.
    status: str
    code: str
    rows: int
    rows_in: int
    examples: list[RestingRow]


@dataclass(frozen=True)
class LlmLine:
    """What one stage's questions took."""

    stage: str
    model: str
    usage: LlmUsage
    rows_in: int
    failed: int
    #: Whether the configuration has prices for the model.
    is_priced: bool

    @property
    def dollars_per_1000_rows(self) -> float | None:
        """Price of the stage for a thousand rows that reach it."""
        return (
            1000 * self.usage.cost_usd / self.rows_in if self.is_priced and self.rows_in else None
        )


@dataclass(frozen=True)
class Content:
    """A report."""

    reader: RunReader
    name: str
    ended: datetime | None
    lines: list[StageLine]
    totals: Totals
    flow: list[FlowRow]
    reasons: list[ReasonLine]
    #: Stages that make files of all rows, which go through them unchanged: not in `flow`.
    makers: list[str]
    #: None, here and below: the rows do not have the columns that it shows.
    map: EmbeddingMap | None
    duplicates: Duplicates | None
    shared: list[Shared]
    versions: Versions | None
    lengths: Lengths | None
    scorers: Scorers | None
    #: Empty: the run wrote no subsets.
    subsets: list[SubsetLine]
    changed: list[SegmentExamples]
    #: None, here and below: the run has no stage that makes what it shows.
    search: Search | None
    training: TrainingSection | None
    evaluation: Evaluation | None
    samples: Samples | None
    tradeoff: Tradeoff | None
    effort: list[EffortRow]
    llms: list[LlmLine]
    prompts: list[tuple[str, str]]
    exports: list[str]

    @property
    def failures(self) -> list[ReasonLine]:
        """The reasons for which rows failed."""
        return [line for line in self.reasons if line.status == FAILED]

    @property
    def began(self) -> datetime | None:
        """When the run began; worked out from when it ended and how long it took."""
        return self.ended - timedelta(seconds=self.reader.ledger.seconds) if self.ended else None


def gather(storage: Storage) -> Content:
    """Read what a report says.

    Raises:
        UserError: there is no run.
    """
    reader = RunReader(storage.root)
    lines = list(_lines(reader))
    makers = [line.account.name for line in lines if _only_makes(reader, line.account)]
    return Content(
        reader=reader,
        name=str(reader.config.get("name") or storage.root.rstrip("/").rpartition("/")[2]),
        ended=_written(storage, "ledger.json"),
        lines=lines,
        totals=_totals(lines),
        flow=flow([line.account for line in lines if line.account.name not in makers]),
        makers=makers,
        reasons=list(_reasons(reader)),
        map=embedding_map(reader),
        duplicates=duplicates(reader),
        shared=[found for name in SHARED if (found := shared(reader, name)) is not None],
        versions=versions(reader),
        lengths=lengths(reader),
        scorers=scorers(reader),
        subsets=subset_lines(reader),
        changed=changed_rows(reader),
        search=search(reader),
        training=training_section(reader),
        evaluation=evaluation(reader),
        samples=samples(reader),
        tradeoff=tradeoff(reader),
        effort=effort([line.account for line in lines]),
        llms=list(_llms(reader)),
        prompts=[(path, _text(storage, path)) for path in sorted(storage.list("prompts"))],
        exports=sorted(storage.list("exports", recursive=True)),
    )


def _only_makes(reader: RunReader, account: StageAccount) -> bool:
    """Whether a stage made files, and its rows are those of the stage before it."""
    changes = account.created or account.dropped or account.failed
    return reader.made_by(account.name) is not None and not changes


def _lines(reader: RunReader) -> Iterator[StageLine]:
    kept_before: int | None = None
    may_wait = reader.ledger.status != "succeeded"
    for entry in reader.ledger.entries:
        unread = 0 if kept_before is None else kept_before - entry.account.rows_in
        yield StageLine(entry, unread, may_wait)
        kept_before = entry.account.kept


def _totals(lines: list[StageLine]) -> Totals:
    accounts = [line.account for line in lines]
    usage = LlmUsage()
    for account in accounts:
        if account.llm is not None:
            usage.add(account.llm)
    return Totals(
        read=accounts[0].rows_in if accounts else 0,
        created=sum(account.created for account in accounts),
        kept=accounts[-1].kept if accounts else 0,
        dropped=sum(account.dropped for account in accounts),
        failed=sum(account.failed for account in accounts),
        waiting=sum(line.unread for line in lines if line.may_wait and line.unread > 0),
        llm=usage,
    )


def _reasons(reader: RunReader) -> Iterator[ReasonLine]:
    examples = resting_rows(reader)
    for entry in reader.ledger.entries:
        account = entry.account
        for code, rows in sorted(account.reasons.items(), key=lambda pair: (-pair[1], pair[0])):
            some = examples.get((account.name, code), [])
            status = some[0].status if some else _status(reader, account, code)
            yield ReasonLine(account.name, status, code, rows, account.rows_in, some)


def _status(reader: RunReader, account: StageAccount, code: str) -> str:
    """What became of the rows that a stage let go for a reason: they say it themselves."""
    if not account.failed or not account.dropped:
        return FAILED if account.failed else DROPPED
    for batch in Rows(reader, account.name, reason=code, columns=["status", "reason"]):
        for status, reason in zip(
            batch["status"].to_pylist(), batch["reason"].to_pylist(), strict=True
        ):
            if reason_code(reason) == code:
                return str(status)
    return DROPPED  # the parts that held them are gone


def _llms(reader: RunReader) -> Iterator[LlmLine]:
    stages, llms = reader.config.get("stages") or {}, reader.config.get("llms") or {}
    for entry in reader.ledger.entries:
        account = entry.account
        if account.llm is None:
            continue
        name = _mapping(stages.get(account.name)).get("llm")
        config = _mapping(llms.get(name))
        is_priced = config.get("usd_per_million") is not None or account.llm.cost_usd > 0
        yield LlmLine(
            stage=account.name,
            model=str(config.get("model") or ""),
            usage=account.llm,
            rows_in=account.rows_in,
            failed=account.failed,
            is_priced=is_priced,
        )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _written(storage: Storage, path: str) -> datetime | None:
    fs, root = filesystem(storage.root)
    modified = fs.get_file_info(f"{root.rstrip('/')}/{path}").mtime
    return modified.astimezone(UTC) if modified else None


def _text(storage: Storage, path: str) -> str:
    return (storage.read_bytes(path) or b"").decode(errors="replace")
