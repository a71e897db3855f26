"""The account of a run, checked: which rows came into each stage, and what became of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray_pipeline.models.control_tokens import ROWS_WITH_CONTROL_TEXT
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.rundir.account import CUT_ANSWERS, LlmUsage, StageAccount
from ray_pipeline.rundir.ledger import LedgerEntry


@dataclass(frozen=True)
class StageLine:
    """One line of the account."""

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
        """``rows_in + created - kept - dropped - failed``: 0 unless rows were lost or made up."""
        account = self.account
        return account.rows_in + account.created - account.kept - account.dropped - account.failed

    @property
    def is_right(self) -> bool:
        """Whether each row is accounted for, and each row of the stage before was read."""
        return self.off_by == 0 and (self.unread == 0 or (self.may_wait and self.unread > 0))

    @property
    def to_come(self) -> int:
        """Rows that the stage has not processed yet, because the run has not come so far."""
        return max(self.unread, self.entry.rows_waiting)


@dataclass(frozen=True)
class Totals:
    """The run as one equation, and what it took."""

    read: int
    created: int
    kept: int
    dropped: int
    failed: int
    #: Kept by some stage and not yet read by the next one, because the run has not come so far.
    waiting: int
    llm: LlmUsage
    #: Whether some stage has not processed all its rows.
    is_unfinished: bool = False

    @property
    def balances(self) -> bool:
        """Whether every row is accounted for."""
        came = self.read + self.created
        return came == self.kept + self.dropped + self.failed + self.waiting


@dataclass(frozen=True)
class LlmLine:
    """What one stage's requests to a language model took."""

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


def stage_lines(reader: ReportReader) -> list[StageLine]:
    """The account's lines in order."""
    return _lines(reader, reader.ledger.entries)


def source_lines(reader: ReportReader) -> dict[str, list[StageLine]]:
    """The account's lines of each named source; empty in a run without named sources."""
    entries = reader.ledger.entries
    sources = dict.fromkeys(source for entry in entries for source in entry.account.sources)
    return {source: _lines(reader, [_of_source(e, source) for e in entries]) for source in sources}


def _of_source(entry: LedgerEntry, source: str) -> LedgerEntry:
    """The entry with the rows of one source alone: none where none of its units has committed."""
    rows = entry.account.sources.get(source, {})
    account = StageAccount.from_json({"name": entry.account.name, **rows})
    return replace(entry, account=account, rows_waiting=0)


def _lines(reader: ReportReader, entries: Iterable[LedgerEntry]) -> list[StageLine]:
    lines: list[StageLine] = []
    may_wait = reader.ledger.status != "succeeded"
    kept_before: int | None = None
    for entry in entries:
        unread = 0 if kept_before is None else kept_before - entry.account.rows_in
        lines.append(StageLine(entry, unread, may_wait))
        kept_before = entry.account.kept
    return lines


def totals(reader: ReportReader) -> Totals:
    """The sums over the account's lines."""
    sums = sum_of(reader.once(stage_lines))
    sums.llm.add(reader.ledger.other or LlmUsage())
    return sums


def sum_of(lines: Sequence[StageLine]) -> Totals:
    """The sums over lines of all stages, in order."""
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
        is_unfinished=any(not line.entry.finished for line in lines),
    )


def llm_lines(reader: ReportReader) -> list[LlmLine]:
    """A line for each stage that asked a language model."""
    stages, llms = _mapping(reader.config.get("stages")), _mapping(reader.config.get("llms"))
    lines = []
    for entry in reader.ledger.entries:
        account = entry.account
        if account.llm is None:
            continue
        config = _mapping(llms.get(str(_mapping(stages.get(account.name)).get("llm"))))
        is_priced = config.get("usd_per_million") is not None or account.llm.cost_usd > 0
        lines.append(
            LlmLine(
                stage=account.name,
                model=str(config.get("model") or ""),
                usage=account.llm,
                rows_in=account.rows_in,
                failed=account.failed,
                is_priced=is_priced,
            )
        )
    return lines


def cut_answers(entries: Sequence[LedgerEntry]) -> list[str]:
    """A sentence for each stage with answers that reached their limit of tokens."""
    lines = []
    for entry in entries:
        account = entry.account
        if failed := account.reasons.get("llm:length", 0):
            lines.append(
                f"{account.name}: {_rows(failed)} failed because the answer reached its limit of "
                "tokens (llm:length). Raise max_tokens, or let the model think less"
            )
        if kept := account.counts.get(CUT_ANSWERS, 0):
            lines.append(
                f"{account.name}: {_rows(kept)} kept with an answer that was cut off at its limit "
                "of tokens, which the prompt allows (answer.allow_truncated)"
            )
    return lines


def damaged_lines(entries: Sequence[LedgerEntry]) -> list[str]:
    """A sentence for each stage with stored answers that cannot be read any more."""
    lines = []
    for entry in entries:
        if entry.account.llm is not None and (number := entry.account.llm.damaged):
            what = "1 stored line was" if number == 1 else f"{number:,} stored lines were"
            lines.append(
                f"{entry.account.name}: {what} damaged. The answers in them were asked for again "
                "where they were needed; what they cost is not in the account"
            )
    return lines


def control_text(entries: Sequence[LedgerEntry]) -> list[str]:
    """A sentence for each stage that read rows with the text of a control token."""
    return [
        f"{entry.account.name}: {_rows(number)} with the text of a control token, such as "
        "<|im_end|>; local models and trainings have it as text"
        for entry in entries
        if (number := entry.account.counts.get(ROWS_WITH_CONTROL_TEXT, 0))
    ]


def _rows(number: int) -> str:
    return "1 row" if number == 1 else f"{number:,} rows"


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
