"""Answers of one model to some questions, as the `generate` command prints them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import orjson

from ray_pipeline.errors import UserError
from ray_pipeline.evaluate.model_text import Decoding, Generated, load_tokenizer, trained_format

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
