"""What the stages counted of their own work."""

from __future__ import annotations

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.section import Section


def read(reader: ReportReader) -> list[tuple[str, list[tuple[str, int]]]]:
    """The counters of each stage that has any, by name."""
    return [
        (entry.account.name, sorted(entry.account.counts.items(), key=lambda pair: pair[0].lower()))
        for entry in reader.ledger.entries
        if entry.account.counts
    ]


SECTION = Section("counts", "What the stages counted", "counts.html.j2", read)
