"""Why rows left the pipeline, with examples of those that were dropped."""

from __future__ import annotations

from dataclasses import dataclass

from ray_pipeline.core.rows import DROPPED
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.resting_rows import ReasonLine, reason_lines
from ray_pipeline.report.section import Section


@dataclass(frozen=True)
class Reasons:
    """The section."""

    lines: list[ReasonLine]
    #: Whether any stage has committed rows.
    has_begun: bool

    @property
    def of_dropped(self) -> list[ReasonLine]:
        """The reasons for which rows were dropped."""
        return [line for line in self.lines if line.status == DROPPED]


def read(reader: ReportReader) -> Reasons:
    """Read the reasons; there may be none."""
    return Reasons(reader.once(reason_lines), bool(reader.ledger.entries))


SECTION = Section("reasons", "Why rows left", "reasons.html.j2", read)
