"""Rows that failed, with what a language model had answered about them."""

from __future__ import annotations

from dataclasses import dataclass

from ray_pipeline.core.rows import FAILED
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.resting_rows import ReasonLine, reason_lines
from ray_pipeline.report.section import Section
from ray_pipeline.report.server_words import ServerMessage, server_messages


@dataclass(frozen=True)
class Failures:
    """The section."""

    #: The reasons for which rows failed.
    lines: list[ReasonLine]
    #: Whether any stage has committed rows.
    has_begun: bool
    #: What servers said about failed rows, the most frequent first.
    messages: list[ServerMessage]
    #: Failed rows with further messages.
    other_rows: int


def read(reader: ReportReader) -> Failures:
    """Read the failures; there may be none."""
    lines = [line for line in reader.once(reason_lines) if line.status == FAILED]
    messages, other_rows = server_messages(reader) if lines else ([], 0)
    return Failures(lines, bool(reader.ledger.entries), messages, other_rows)


SECTION = Section("failures", "Failures", "failures.html.j2", read)
