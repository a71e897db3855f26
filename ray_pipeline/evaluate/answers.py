"""Answers of one model to a list of questions, one by one as they are generated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from ray_pipeline.core.errors import UserError, first_line
from ray_pipeline.models.decoding import Decoding, Generated, trained_format
from ray_pipeline.models.tokenizer import load_tokenizer

#: Answers a batch of questions.
Generator = Callable[[Sequence[str], Decoding], list[Generated]]
#: Questions that are answered before the first answer is yielded.
_AT_ONCE = 256


def answers(
    folder: str, questions: Sequence[str], decoding: Decoding, engine: str
) -> Iterator[str]:
    """Yield a model's answers in the order of the questions.

    Args:
        folder: of the model, or its hub id (see `rundir.models.find_model`).
        questions: put into the prompt format that the model was trained with.
        decoding: how tokens are chosen.
        engine: what runs the model: ``transformers`` or ``vllm``.

    Raises:
        UserError: the model generates no text or cannot be loaded, or the engine is not installed.
        RunError: the engine did not start.
    """
    _check_writes(folder)
    with _ENGINES[engine](folder) as ask:
        for first in range(0, len(questions), _AT_ONCE):
            for answer in ask(questions[first : first + _AT_ONCE], decoding):
                yield answer.text


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
