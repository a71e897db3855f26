"""vLLM inside a Ray actor: one `AsyncLLM`, whose continuous batch is kept full by all callers."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ray_pipeline.core.references import resolve
from ray_pipeline.llm.engines.base import LocalEngine
from ray_pipeline.llm.types import AnswerFormat, EngineError, Request
from ray_pipeline.models.vllm import engine_arguments, quiet
from ray_pipeline.rundir.responses import Response

if TYPE_CHECKING:
    from ray_pipeline.llm.config import LlmConfig


class VllmEngine(LocalEngine):
    """A vLLM engine; an actor of `ray_pipeline.llm.engines.pool`.

    Args:
        config: the model's configuration.
        model: folder or hub id of the weights.
    """

    def __init__(self, config: LlmConfig, model: str) -> None:
        self._config = config
        self._model = model
        self._engine: Any = None
        self._tokenizer: Any = None
        self._starting = asyncio.Lock()
        self._number = 0

    async def ready(self) -> bool:
        """Start the engine if it isn't running; returns when it can answer."""
        async with self._starting:
            if self._engine is None:
                self._start()
        return True

    def _start(self) -> None:
        quiet()
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        from ray_pipeline.models.chat_template import use_trained_format
        from ray_pipeline.models.control_tokens import ControlTokens
        from ray_pipeline.models.thinking import ThinkingTokens

        arguments = AsyncEngineArgs(**engine_arguments(self._model, **_settings(self._config)))
        engine = AsyncLLM.from_engine_args(arguments)
        self._max_len = engine.model_config.max_model_len
        self._tokenizer = engine.get_tokenizer()
        use_trained_format(self._tokenizer, self._model)
        self._control = ControlTokens(self._tokenizer)
        self._thinking = ThinkingTokens(self._tokenizer)
        self._engine = engine

    async def generate(self, request: Request) -> Response | EngineError:
        """Answer one request; see `LocalEngine`."""
        await self.ready()
        began = time.perf_counter()
        try:
            prompt = self._control.chat(request.messages, **self._config.chat_template_kwargs)
            if len(prompt) >= self._max_len:
                detail = f"the prompt has {len(prompt)} tokens, the model takes {self._max_len}"
                return EngineError("context_length", detail)
            output = await self._generate(prompt, request)
        except ValueError as error:
            return EngineError("bad_request", " ".join(str(error).split())[:500])
        except Exception as error:
            if self._engine.errored:
                # This process cannot revive a dead engine: Ray restarts the actor.
                os._exit(1)
            return EngineError("engine", " ".join(str(error).split())[:500])
        answer = output.outputs[0]
        return Response(
            text=self._text(answer, prompt, request),
            finish_reason=answer.finish_reason,
            prompt_tokens=len(prompt),
            completion_tokens=len(answer.token_ids),
            cached_prompt_tokens=output.num_cached_tokens or 0,
            seconds=time.perf_counter() - began,
        )

    async def _generate(self, prompt: list[int], request: Request) -> Any:
        from vllm import TokensPrompt

        self._number += 1
        final = None
        stream = self._engine.generate(
            TokensPrompt(prompt_token_ids=prompt),
            _sampling_params(request),
            request_id=str(self._number),
            lora_request=self._adapter(),
        )
        async for output in stream:
            final = output
        return final

    def _text(self, answer: Any, prompt: list[int], request: Request) -> str:
        """The generated text with the marks of thinking, one that the prompt ends with included."""
        text = self._thinking.text(answer.token_ids)
        if text is None:
            text = answer.text
        else:
            for stop in request.sampling.stop:
                text = text.partition(stop)[0]
        # Decoding under constraints leaves no room for thinking.
        is_free = request.format.kind == "text"
        return self._thinking.opened(prompt) + text if is_free else text

    def _adapter(self) -> Any:
        if self._config.adapter is None:
            return None
        from vllm.lora.request import LoRARequest

        return LoRARequest(self._config.adapter, 1, self._config.adapter)


def _settings(config: LlmConfig) -> dict[str, Any]:
    """Arguments of vLLM's engine, from a model's configuration."""
    settings: dict[str, Any] = {
        "revision": config.revision,
        "dtype": config.dtype,
        "max_num_seqs": config.max_num_seqs,
        "tensor_parallel_size": config.tensor_parallel_size,
        "enable_lora": config.adapter is not None,
    }
    if config.max_model_len is not None:
        settings["max_model_len"] = config.max_model_len
    return settings | resolve(config.engine_args, "engine_args")


def _sampling_params(request: Request) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = request.sampling
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        stop=list(sampling.stop),
        seed=request.sampling_seed() if sampling.temperature > 0 else None,
        output_kind=RequestOutputKind.FINAL_ONLY,
        structured_outputs=_guided(request.format),
    )


def _guided(answer_format: AnswerFormat) -> Any:
    """Guided decoding: the engine can only generate one of the labels, or JSON for the schema."""
    from vllm.sampling_params import StructuredOutputsParams

    if answer_format.kind == "label":
        return StructuredOutputsParams(choice=list(answer_format.labels))
    if answer_format.kind == "json":
        return StructuredOutputsParams(json=asdict(answer_format)["schema"])
    return None
