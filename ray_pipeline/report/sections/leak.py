"""Test rows that have a twin among the rows that models were trained on."""

from __future__ import annotations

from ray_pipeline.report.leaks import Leak, leaks
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.section import Section


def read(reader: ReportReader) -> list[Leak] | None:
    """The leak into each set of training rows; None where the run does not measure it."""
    return leaks(reader.ledger.entries) or None


SECTION = Section("leak", "Test rows with a twin in training", "leak.html.j2", read)
