"""Questions for `ray-pipeline generate`: typed on the command line, or read from a file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from ray_pipeline.core.config import nearest
from ray_pipeline.core.errors import UserError
from ray_pipeline.sources.config import SourceConfig
from ray_pipeline.sources.find import known_extensions, recognise
from ray_pipeline.sources.read import read_unit
from ray_pipeline.sources.survey import survey

#: The column with the questions in a file.
COLUMN = "question"


def questions_of(prompts: Sequence[str], file: Path | None) -> list[str]:
    """The questions of the command line: those that were typed, or those in a file.

    Args:
        prompts: values of ``--prompt``.
        file: value of ``--file``.

    Raises:
        UserError: neither or both were given, a prompt is empty, or the file is not usable.
    """
    if prompts and file is not None:
        raise UserError("--prompt and --file: give one of them")
    if file is not None:
        return read_questions(file)
    if not prompts:
        raise UserError('nothing is asked: give --prompt "a question", or --file with questions')
    if not all(prompt.strip() for prompt in prompts):
        raise UserError("--prompt: it is empty: write a question")
    return [prompt.strip() for prompt in prompts]


def read_questions(file: Path, column: str = COLUMN) -> list[str]:
    """The questions in a file, in order; or other texts, such as a corpus.

    Args:
        file: ``.txt`` with one question per line, empty lines ignored, or any file that can be
            the source of a run (``.csv``, ``.jsonl``, ``.parquet``, ...) with the column.
        column: that holds them.

    Raises:
        UserError: there is no such file, it is not what its name says, it lacks the column, a row
            has no question, or the file has no questions.
    """
    if file.suffix.lower() == ".txt":
        questions = [line.strip() for line in _text_of(file).splitlines() if line.strip()]
    elif recognise(str(file)):
        questions = list(_questions_in_rows(file, column))
    else:
        raise UserError(
            f"{file}: questions come in .txt, one a line, or in one of the formats of sources "
            f"({known_extensions()}): name such a file"
        )
    if not questions:
        raise UserError(f"{file}: there is no {column} in it: expected at least one")
    return questions


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 (byte {error.start}): save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None


def _questions_in_rows(file: Path, column: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as scratch:
        surveyed = survey(SourceConfig(path=str(file)), {}, None, scratch)
        if column not in (names := surveyed.schema.names):
            raise UserError(
                f"{file}: no column '{column}'{nearest(column, names)}. Rename the column that has "
                "the questions"
                if column == COLUMN
                else f"{file}: no column '{column}'{nearest(column, names)}"
            )
        noun = "question" if column == COLUMN else "text"
        if column in surveyed.spec.as_json:
            raise UserError(f"{file}: not every '{column}' is text: write {noun}s in that column")
        for unit in surveyed.units:
            rows = read_unit(unit, surveyed.spec).select([column, "reason"]).to_pylist()
            for number, row in enumerate(rows, start=unit.first_row + 1):
                yield _question(row, column, f"{file}, row {number}")


def _question(row: dict[str, object], column: str, where: str) -> str:
    if row["reason"]:
        # The code of a reason, as in "source:json: ...", adds nothing to the text after it.
        problem = str(row["reason"]).partition(": ")[2]
        raise UserError(f"{where}: cannot be read: {problem}. Fix the row, or take it out")
    question, noun = row[column], "question" if column == COLUMN else "text"
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"{where}: '{column}' is {question!r}: write a {noun}, or take it out")
    return question.strip()
