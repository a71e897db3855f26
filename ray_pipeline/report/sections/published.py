"""The published figures of the original experiment beside those of this run.

They were published without their data, hardware and intervals, so they are claims to compare with,
not a baseline: other rows and models give other figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ray_pipeline.core.numbers import finite
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.section import Section
from ray_pipeline.report.sections.evaluation import DISTILLED
from ray_pipeline.report.sections.evaluation import STAGE as EVALUATE
from ray_pipeline.report.sections.tradeoff import read_analysis
from ray_pipeline.rundir.account import StageAccount


@dataclass(frozen=True)
class Claim:
    """A published figure, and this run's."""

    what: str
    published: str
    here: str


def read(reader: ReportReader) -> list[Claim] | None:
    """The figures that this run has, too; None where it has none."""
    return [*_of_distillation(reader), *_of_tradeoff(reader)] or None


def _of_distillation(reader: ReportReader) -> Iterator[Claim]:
    accounts = {entry.account.name: entry.account for entry in reader.ledger.entries}
    if "train-teacher" in accounts:
        yield from _of_rows(accounts)
    models = (reader.made_by(EVALUATE) or {}).get("models")
    models = models if isinstance(models, Mapping) else {}
    teacher, student = models.get("teacher"), models.get(DISTILLED)
    if not isinstance(teacher, Mapping) or not isinstance(student, Mapping):
        return
    kept = _times(student, teacher, "parameters")
    if kept is not None:
        yield Claim("parameters of the student", "89% fewer (774 to 82 million)", _fewer(kept))
    if (smaller := _times(teacher, student, "bytes")) is not None:
        yield Claim("size on disk", "4.7 × smaller", f"{smaller:.1f} × smaller")
    if (faster := _times(teacher, student, "latency_seconds")) is not None:
        yield Claim("speed of an answer", "6 to 8 × faster", f"{faster:.1f} ×")
    if (worse := _times(student, teacher, "perplexity")) is not None:
        here = f"{worse:.2f} ×" if worse < 1000 else "over 1,000 ×"
        yield Claim("perplexity relative to the teacher's", "not published", here)


def _of_rows(accounts: Mapping[str, StageAccount]) -> Iterator[Claim]:
    read, formal = accounts.get("source"), accounts.get("augment-formal")
    cleaned, accepted = accounts.get("clean-text"), accounts.get("accept-paraphrases")
    if read is not None and read.rows_in and cleaned is not None:
        left = cleaned.kept / read.rows_in
        yield Claim(
            "rows left after cleaning", "97% (of 6,000)", f"{left:.0%} (of {read.rows_in:,})"
        )
    if read is not None and read.rows_in and formal is not None:
        left = formal.rows_in / read.rows_in
        yield Claim("rows left before augmentation", "87% (5,200 of 6,000)", f"{left:.0%}")
    if formal is not None and formal.rows_in and accepted is not None:
        number = accepted.kept / formal.rows_in
        yield Claim("versions of a row, the original among them", "5", f"{number:.1f} accepted")


def _of_tradeoff(reader: ReportReader) -> Iterator[Claim]:
    for name, mode in (read_analysis(reader) or {"modes": {}})["modes"].items():
        enough = mode["threshold"]["intervals"]["subset"]
        here = f"by intervals: {enough}" if enough else "not shown: no subset is recommended"
        what = f"less data of high quality is enough ({name})"
        yield Claim(what, "hypothesis: 10 to 100 × less; no results", here)


def _times(one: Mapping[str, Any], other: Mapping[str, Any], key: str) -> float | None:
    values = finite(one.get(key)), finite(other.get(key))
    return values[0] / values[1] if values[0] is not None and values[1] else None


def _fewer(share: float) -> str:
    return f"{1 - share:.0%} fewer" if share <= 1 else f"{share:.2f} × as many"


SECTION = Section("published", "Beside the original experiment", "published.html.j2", read)
