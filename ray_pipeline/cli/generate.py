"""Answers of one model to some questions, as the `generate` command prints them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import orjson

from ray_pipeline.core.config import nearest
from ray_pipeline.core.errors import UserError
from ray_pipeline.models.decoding import Decoding, Generated, trained_format
from ray_pipeline.models.tokenizer import load_tokenizer

#: Questions to their answers.
Generator = Callable[[Sequence[str], Decoding], list[Generated]]
#: Questions that are answered before the first answer is seen.
_AT_ONCE = 256


def answers(
    folder: str, questions: Sequence[str], decoding: Decoding, engine: str
) -> Iterator[str]:
    """What a model answers, in order, as it comes.

    Args:
        folder: of the model, or its hub id (see `run_models.find_model`).
        questions: they are put to it as in its training.
        decoding: how it answers.
        engine: what runs it: ``transformers`` or ``vllm``.

    Raises:
        UserError: it writes no text, cannot be loaded, or the engine is not installed.
        RunError: the engine did not start.
    """
    _check_writes(folder)
    with _ENGINES[engine](folder) as ask:
        for first in range(0, len(questions), _AT_ONCE):
            for answer in ask(questions[first : first + _AT_ONCE], decoding):
                yield answer.text


def shown(question: str, answer: str, as_json: bool) -> str:
    """An answer as it is printed: alone, or with its question as a line of JSON."""
    return orjson.dumps({"question": question, "answer": answer}).decode() if as_json else answer


def _check_writes(folder: str) -> None:
    """Refuse embedding models and the like, which transformers would load with random heads."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    try:
        architectures = AutoConfig.from_pretrained(folder).architectures or []
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"model '{folder}' cannot be loaded: {reason}") from None
    if architectures and not set(architectures) & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()):
        raise UserError(
            f"model '{folder}' is a {architectures[0]}, which writes no text: name a causal "
            "language model, as smollm2-135m-instruct"
        )


@contextmanager
def _with_transformers(folder: str) -> Iterator[Generator]:
    import torch
    from safetensors import SafetensorError

    from ray_pipeline.evaluate.generation import TextGenerator
    from ray_pipeline.train.student import load

    tokenizer = load_tokenizer(folder)
    gpu = torch.cuda.is_available()
    # On CPUs 16 bits are seldom faster.
    try:
        model = load(folder, torch.bfloat16 if gpu else torch.float32)
    except SafetensorError as error:
        raise UserError(
            f"the weights in {folder} cannot be read ({error}): copy or train the model again"
        ) from None
    model = model.to("cuda" if gpu else "cpu")
    yield TextGenerator(model, tokenizer, trained_format(folder, tokenizer))


@contextmanager
def _with_vllm(folder: str) -> Iterator[Generator]:
    from ray_pipeline.evaluate.vllm_generation import VllmGenerator

    generator = VllmGenerator(folder)
    try:
        yield generator
    finally:
        generator.close()


_ENGINES: dict[str, Callable[[str], AbstractContextManager[Generator]]] = {
    "transformers": _with_transformers,
    "vllm": _with_vllm,
}

# Questions that a person asks a model: typed, or from a small file.

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
        raise UserError(f"{file}, line {line}: not CSV: {error}: mend the line") from None


def _check_columns(file: Path, names: list[str]) -> None:
    if COLUMN not in names:
        raise UserError(
            f"{file}: no column '{COLUMN}'{nearest(COLUMN, names)}. Rename the column that has "
            "the questions"
        )


_READERS = {".txt": _of_lines, ".jsonl": _of_jsonl, ".csv": _of_csv}
