"""The account of each named source: the stages that changed its rows, and its sums."""

from __future__ import annotations

from dataclasses import dataclass

from ray_pipeline.report.accounts import StageLine, Totals, source_lines, sum_of
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.section import Section


@dataclass(frozen=True)
class SourceAccount:
    """The rows of one source on their way through the stages."""

    name: str
    #: The stages that changed its rows, or did not read all of them.
    lines: list[StageLine]
    #: Number of the other stages: they kept all its rows and created none.
    unchanged: int
    totals: Totals


def read(reader: ReportReader) -> list[SourceAccount] | None:
    """The account of each source; None if the run's source has no name."""
    accounts = []
    for source, lines in source_lines(reader).items():
        shown = [line for line in lines if _has_news(line)]
        accounts.append(SourceAccount(source, shown, len(lines) - len(shown), sum_of(lines)))
    return accounts or None


def _has_news(line: StageLine) -> bool:
    account = line.account
    changes = account.created or account.dropped or account.failed
    return bool(changes or line.unread or line.off_by)


SECTION = Section("by-source", "Rows by source", "by_source.html.j2", read)
