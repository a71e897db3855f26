"""Questions that a person asks a model: typed on the command line, or read from a small file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson

from ray_pipeline.core.config import nearest
from ray_pipeline.core.errors import UserError

#: The column of a file that holds the questions.
COLUMN = "question"


def asked(prompts: Sequence[str], file: Path | None) -> list[str]:
    """The questions that were typed, or those in a file.

    Raises:
        UserError: there are none, there are both, or the file is not usable.
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


def read_questions(file: Path) -> list[str]:
    """The questions in a file, in order.

    Args:
        file: ``.txt`` (one a line, empty lines left out), ``.jsonl`` or ``.csv`` with `COLUMN`.

    Raises:
        UserError: there is no such file, it is not what its name says, it lacks the column, a row
            has no question, or there is none at all.
    """
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise UserError(f"{file}: questions come in {', '.join(_READERS)}: name such a file")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 (byte {error.start}): save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    questions = []
    for line, question in reader(file, text):
        if not isinstance(question, str) or not question.strip():
            raise UserError(
                f"{file}, line {line}: '{COLUMN}' is {question!r}: write a question, or take the "
                "line out"
            )
        questions.append(question.strip())
    if not questions:
        raise UserError(f"{file}: there is no question in it: expected at least one")
    return questions


def _of_lines(file: Path, text: str) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, line


def _of_jsonl(file: Path, text: str) -> Iterator[tuple[int, object]]:
    for number, line in _of_lines(file, text):
        try:
            row = orjson.loads(str(line))
        except orjson.JSONDecodeError as error:
            raise UserError(
                f"{file}, line {number}: not JSON ({error}): write one object a line"
            ) from None
        if not isinstance(row, dict):
            raise UserError(
                f"{file}, line {number}: {type(row).__name__} where an object with '{COLUMN}' "
                "was expected"
            )
        _check_columns(file, list(row))
        yield number, row[COLUMN]


def _of_csv(file: Path, text: str) -> Iterator[tuple[int, object]]:
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        if rows.fieldnames is not None:
            _check_columns(file, list(rows.fieldnames))
        for row in rows:
            yield rows.line_num, row[COLUMN]
    except csv.Error as error:
        line = rows.reader.line_num
        raise UserError(f"{file}, line {line}: not CSV: {error}: fix the line") from None


def _check_columns(file: Path, names: list[str]) -> None:
    if COLUMN not in names:
        raise UserError(
            f"{file}: no column '{COLUMN}'{nearest(COLUMN, names)}. Rename the column that has "
            "the questions"
        )


_READERS = {".txt": _of_lines, ".jsonl": _of_jsonl, ".csv": _of_csv}
