"""Answers by vLLM in this process, with the prompts and end tokens of `generation`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.models.decoding import (
    Decoding,
    Generated,
    ModelText,
    own_ends,
    trained_format,
)
from ray_pipeline.models.tokenizer import load_tokenizer
from ray_pipeline.models.vllm import SHUTDOWN_SECONDS


class VllmGenerator:
    """A causal language model that answers questions, in bfloat16.

    Args:
        folder: of the model, or its hub id.

    Raises:
        UserError: vLLM is not installed, or the model has no tokenizer.
        RunError: vLLM did not start.
    """

    def __init__(self, folder: str) -> None:
        if find_spec("vllm") is None:
            raise UserError("vLLM is not installed here: leave --engine out, or pip install vllm")
        tokenizer = load_tokenizer(folder)
        ends = own_ends(_generation_config(folder))
        self.text = ModelText(tokenizer, trained_format(folder, tokenizer), ends)
        self._llm = _started(folder)

    def __call__(self, questions: Sequence[str], decoding: Decoding) -> list[Generated]:
        """Answer questions, in order; see `generation.TextGenerator`.

        Raises:
            UserError: a prompt is too long for the model.
        """
        from vllm import SamplingParams, TokensPrompt

        sampling = SamplingParams(
            max_tokens=decoding.max_new_tokens,
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            seed=decoding.seed if decoding.temperature > 0 else None,
            stop_token_ids=sorted(self.text.ends),
            detokenize=False,
        )
        prompts = [TokensPrompt(prompt_token_ids=ids) for ids in self.text.prompts(questions)]
        try:
            outputs = self._llm.generate(prompts, sampling, use_tqdm=False)
        except ValueError as error:
            raise UserError(f"vLLM refuses a question: {error}") from None
        return [self.text.answer(output.outputs[0].token_ids) for output in outputs]

    def close(self) -> None:
        """End vLLM's processes and wait; at exit vLLM would kill them, with warnings."""
        self._llm.llm_engine.engine_core.shutdown(SHUTDOWN_SECONDS)


def _started(folder: str) -> Any:
    from ray_pipeline.models.vllm import engine_arguments, quiet

    quiet()
    from vllm import LLM

    try:
        return LLM(**engine_arguments(folder, max_num_seqs=64))
    except Exception as error:  # of any kind: vLLM looks at model, machine and settings
        raise RunError(
            f"vLLM did not start with {folder}: {error}. Leave --engine out to do without it"
        ) from error


def _generation_config(folder: str) -> Any:
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(folder)
    except OSError:  # it has none
        return GenerationConfig()
