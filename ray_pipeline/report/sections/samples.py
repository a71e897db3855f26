"""Questions with the answers of every model side by side, from ``validation_results.csv``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ray_pipeline.core.numbers import finite
from ray_pipeline.core.text import plain, shortened
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.section import Section
from ray_pipeline.report.sections.evaluation import ALONE, DISTILLED, STAGE, in_order, label
from ray_pipeline.rundir.layout import ORIGINAL, VERSION

FILE = "exports/validation_results.csv"
_ANSWER, _SCORE = "_answer", "_sentence_bleu"
#: Rows that are compared; rows of each kind that are shown; characters of a text.
_ROWS, _SHOWN, _TEXT = 20_000, 4, 400


@dataclass(frozen=True)
class ModelAnswer:
    """What one model answered."""

    label: str
    text: str
    #: Sentence BLEU.
    score: float | None


@dataclass(frozen=True)
class Sample:
    """A row with the answers of every model."""

    row_id: str
    question: str
    reference: str
    answers: list[ModelAnswer]


@dataclass(frozen=True)
class Samples:
    """The section."""

    #: Groups of samples with a heading that says what they have in common.
    groups: list[tuple[str, list[Sample]]]
    #: Rows that were compared, and whether there are more.
    rows: int
    is_whole: bool
    #: Rows on which the distilled student has a higher sentence BLEU than the one trained alone,
    #: a lower one, and the same; None unless both were evaluated.
    wins_losses_ties: tuple[int, int, int] | None


def read(reader: ReportReader) -> Samples | None:
    """Choose samples; None where no models' answers were written down."""
    if reader.made_by(STAGE) is None:
        return None
    rows = reader.csv(FILE, most=_ROWS)
    if rows is None or not rows.num_rows:
        return None
    models = [n.removesuffix(_ANSWER) for n in rows.column_names if n.endswith(_ANSWER)]
    if not models or not {"row_id", "question", "reference"} <= set(rows.column_names):
        return None
    compared = [
        _Compared(row, models)
        for row in rows.slice(0, _ROWS).to_pylist()
        if row.get(VERSION, ORIGINAL) == ORIGINAL
    ]
    compared.sort(key=lambda row: row.row_id)
    groups = [(title, [row.sample() for row in some]) for title, some in _chosen(compared) if some]
    leads = [row.lead for row in compared if row.lead is not None]
    counts = (sum(x > 0 for x in leads), sum(x < 0 for x in leads), sum(x == 0 for x in leads))
    return Samples(groups, len(compared), rows.num_rows <= _ROWS, counts if leads else None)


class _Compared:
    """A row with what decides whether it is shown."""

    def __init__(self, row: dict[str, str], models: Sequence[str]) -> None:
        self.row_id = str(row["row_id"])
        self._row = row
        self._models = in_order(models)
        self.scores = {name: _number(row.get(name + _SCORE)) for name in models}

    @property
    def lead(self) -> float | None:
        """Sentence BLEU of the distilled student minus that of the student trained alone."""
        distilled, alone = self.scores.get(DISTILLED), self.scores.get(ALONE)
        return None if distilled is None or alone is None else distilled - alone

    @property
    def spread(self) -> float:
        """Difference of the highest and the lowest sentence BLEU of the models."""
        known = [score for score in self.scores.values() if score is not None]
        return max(known) - min(known) if known else 0.0

    def sample(self) -> Sample:
        """The row as it is shown."""
        row = self._row
        answers = [
            ModelAnswer(label(name), _shown(row[name + _ANSWER]), self.scores[name])
            for name in self._models
        ]
        return Sample(
            plain(self.row_id), _shown(row["question"]), _shown(row["reference"]), answers
        )


def _chosen(rows: Sequence[_Compared]) -> Iterator[tuple[str, list[_Compared]]]:
    """Rows to show, sorted by their ids where they are equally interesting."""
    remaining = list(rows)

    def take(title: str, wanted: Sequence[_Compared]) -> tuple[str, list[_Compared]]:
        chosen = list(wanted[:_SHOWN])
        remaining[:] = [row for row in remaining if row not in chosen]
        return title, chosen

    ahead = [row for row in rows if (row.lead or 0) > 0]
    yield take("Where distilling helped most", sorted(ahead, key=lambda row: -(row.lead or 0)))
    behind = [row for row in rows if (row.lead or 0) < 0]
    yield take("Where distilling hurt most", sorted(behind, key=lambda row: row.lead or 0))
    differing = [row for row in remaining if row.spread > 0]
    yield take("Where the models differ most", sorted(differing, key=lambda row: -row.spread))
    yield take("Chosen at random", remaining)


def _number(cell: str | None) -> float | None:
    try:
        return finite(float(cell or ""))
    except ValueError:
        return None


def _shown(text: Any) -> str:
    return shortened(plain(text), _TEXT)


SECTION = Section("samples", "Answers of the models side by side", "samples.html.j2", read)
