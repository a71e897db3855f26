"""Answers of one model to some questions, as the `generate` command prints them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import orjson

from ray_pipeline.core.config import nearest
from ray_pipeline.core.errors import UserError, first_line
from ray_pipeline.models.decoding import Decoding, Generated, load_tokenizer, trained_format
from ray_pipeline.sources.config import SourceConfig
from ray_pipeline.sources.find import known_extensions, recognise
from ray_pipeline.sources.read import read_unit
from ray_pipeline.sources.survey import survey

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
        reason = first_line(error)
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
        file: ``.txt`` (one a line, empty lines left out), or any file that can be the source of a
            run (``.csv``, ``.jsonl``, ``.parquet``, ...) with the column `COLUMN`.

    Raises:
        UserError: there is no such file, it is not what its name says, it lacks the column, a row
            has no question, or there is none at all.
    """
    if file.suffix.lower() == ".txt":
        questions = [line.strip() for line in _text_of(file).splitlines() if line.strip()]
    elif recognise(str(file)):
        questions = list(_of_source(file))
    else:
        raise UserError(
            f"{file}: questions come in .txt, one a line, or in one of the formats of sources "
            f"({known_extensions()}): name such a file"
        )
    if not questions:
        raise UserError(f"{file}: there is no question in it: expected at least one")
    return questions


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 (byte {error.start}): save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None


def _of_source(file: Path) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as scratch:
        found = survey(SourceConfig(path=str(file)), {}, None, scratch)
        if COLUMN not in (names := found.schema.names):
            raise UserError(
                f"{file}: no column '{COLUMN}'{nearest(COLUMN, names)}. Rename the column that has "
                "the questions"
            )
        if COLUMN in found.spec.as_json:
            raise UserError(f"{file}: not every '{COLUMN}' is text: write questions in that column")
        for unit in found.units:
            rows = read_unit(unit, found.spec).select([COLUMN, "reason"]).to_pylist()
            for number, row in enumerate(rows, start=unit.first_row + 1):
                yield _question(row, f"{file}, row {number}")


def _question(row: dict[str, object], where: str) -> str:
    if row["reason"]:
        # Codes of the source, as in "source:json: ...", say no more than what follows them.
        problem = str(row["reason"]).partition(": ")[2]
        raise UserError(f"{where}: cannot be read: {problem}. Fix the row, or take it out")
    question = row[COLUMN]
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"{where}: '{COLUMN}' is {question!r}: write a question, or take it out")
    return question.strip()
