"""Questions with the answers of every model side by side, of ``validation_results.csv``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.text import plain, shortened
from ray_pipeline.report.sections.evaluation import ALONE, DISTILLED, STAGE, in_order, label
from ray_pipeline.rundir.reader import RunReader

FILE = "exports/validation_results.csv"
_ANSWER, _SCORE = "_answer", "_sentence_bleu"
#: Rows that are compared; rows of each kind that are shown; characters of a text.
_ROWS, _SHOWN, _TEXT = 20_000, 4, 400
_BLOCK = 16 * 2**20


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

    #: What the samples of a group have in common, and the samples.
    groups: list[tuple[str, list[Sample]]]
    #: Rows that were compared, and whether there are more.
    rows: int
    is_whole: bool
    #: Rows on which the distilled student has a higher sentence BLEU than the one trained alone,
    #: a lower one, and the same; None where there are not both.
    duel: tuple[int, int, int] | None


def samples(reader: RunReader) -> Samples | None:
    """Choose samples; None where no models' answers were written down."""
    if reader.made_by(STAGE) is None:
        return None
    rows = _read(reader)
    if rows is None or not rows.num_rows:
        return None
    models = [n.removesuffix(_ANSWER) for n in rows.column_names if n.endswith(_ANSWER)]
    if not models or not {"row_id", "question", "reference"} <= set(rows.column_names):
        return None
    compared = [_Compared(row, models) for row in rows.slice(0, _ROWS).to_pylist()]
    compared.sort(key=lambda one: one.row_id)
    groups = [
        (title, [one.sample() for one in chosen]) for title, chosen in _chosen(compared) if chosen
    ]
    leads = [one.lead for one in compared if one.lead is not None]
    duel = (sum(x > 0 for x in leads), sum(x < 0 for x in leads), sum(x == 0 for x in leads))
    return Samples(groups, len(compared), rows.num_rows <= _ROWS, duel if leads else None)


class _Compared:
    """A row with what decides whether it is shown."""

    def __init__(self, row: dict[str, str], models: Sequence[str]) -> None:
        self.row_id = str(row["row_id"])
        self._row = row
        self._models = in_order(models)
        self.scores = {name: _number(row.get(name + _SCORE)) for name in models}

    @property
    def lead(self) -> float | None:
        """Sentence BLEU of the distilled student over that of the student trained alone."""
        distilled, alone = self.scores.get(DISTILLED), self.scores.get(ALONE)
        return None if distilled is None or alone is None else distilled - alone

    @property
    def spread(self) -> float:
        """How far the models' sentence BLEU lie apart."""
        known = [score for score in self.scores.values() if score is not None]
        return max(known) - min(known) if known else 0.0

    def sample(self) -> Sample:
        """What is shown of it."""
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
    left = list(rows)

    def take(title: str, wanted: Sequence[_Compared]) -> tuple[str, list[_Compared]]:
        chosen = list(wanted[:_SHOWN])
        left[:] = [row for row in left if row not in chosen]
        return title, chosen

    ahead = [row for row in rows if (row.lead or 0) > 0]
    yield take("Where distilling helped most", sorted(ahead, key=lambda row: -(row.lead or 0)))
    behind = [row for row in rows if (row.lead or 0) < 0]
    yield take("Where distilling hurt most", sorted(behind, key=lambda row: row.lead or 0))
    apart = [row for row in left if row.spread > 0]
    yield take("Where the models differ most", sorted(apart, key=lambda row: -row.spread))
    yield take("Drawn by their ids", left)


def _read(reader: RunReader) -> pa.Table | None:
    """The rows that are compared, and some more where there are more; all cells as text."""
    try:
        with reader.storage.open(FILE) as file:
            names = _open(file).schema.names
            file.seek(0)
            batches: list[pa.RecordBatch] = []
            for batch in _open(file, names):
                batches.append(batch)
                if sum(one.num_rows for one in batches) > _ROWS:
                    break
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowInvalid) as error:
        raise RunError(f"cannot read {reader.storage.uri(FILE)}: {error}") from error
    return pa.Table.from_batches(batches) if batches else None


def _open(file: pa.NativeFile, text_columns: Sequence[str] = ()) -> pacsv.CSVStreamingReader:
    return pacsv.open_csv(
        file,
        # A row must fit a block, and answers may be long.
        read_options=pacsv.ReadOptions(block_size=_BLOCK),
        parse_options=pacsv.ParseOptions(newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(text_columns, pa.string())),
    )


def _number(text: Any) -> float | None:
    try:
        number = float(text)
    except (TypeError, ValueError):
        return None
    return number if number == number else None


def _shown(text: Any) -> str:
    return shortened(plain(text), _TEXT)
