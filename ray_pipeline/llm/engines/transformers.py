"""Hugging Face `generate` inside a Ray actor: batches of similar length, no guided decoding."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ray_pipeline.llm.engines.base import LocalEngine
from ray_pipeline.llm.types import EngineError, Request, Sampling
from ray_pipeline.rundir.responses import Response

if TYPE_CHECKING:
    from ray_pipeline.llm.config import LlmConfig

#: Seconds that a batch waits for more requests once it has one.
_GATHER_SECONDS = 0.05


@dataclass
class _Waiting:
    request: Request
    prompt: list[int]
    answer: asyncio.Future[Response | EngineError]
    began: float = field(default_factory=time.perf_counter)


class TransformersEngine(LocalEngine):
    """A model run by transformers; an actor of `ray_pipeline.llm.engines.pool`.

    Args:
        config: the model's configuration.
        model: folder or hub id of the weights.
    """

    def __init__(self, config: LlmConfig, model: str) -> None:
        self._config = config
        self._model_name = model
        self._model: Any = None
        self._waiting: list[_Waiting] = []
        self._starting = asyncio.Lock()
        self._arrived = asyncio.Event()

    async def ready(self) -> bool:
        """Load the model if it isn't loaded; returns when it can answer."""
        async with self._starting:
            if self._model is None:
                await asyncio.to_thread(self._load)
                self._batches = asyncio.create_task(self._run_batches())
        return True

    def _load(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        from ray_pipeline.models.chat_template import use_trained_format
        from ray_pipeline.models.control_tokens import ControlTokens
        from ray_pipeline.models.hub import at_commit
        from ray_pipeline.models.thinking import ThinkingTokens
        from ray_pipeline.models.tokenizer import load_tokenizer

        device = "cuda" if torch.cuda.is_available() else "cpu"
        name, commit = at_commit(self._model_name)
        revision = commit.get("revision") or self._config.revision or "main"
        self._tokenizer = load_tokenizer(name, revision=revision, padding_side="left")
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        use_trained_format(self._tokenizer, self._model_name)
        self._control = ControlTokens(self._tokenizer)
        self._thinking = ThinkingTokens(self._tokenizer)
        model = AutoModelForCausalLM.from_pretrained(
            name, revision=revision, dtype=getattr(torch, self._config.dtype)
        )
        if self._config.adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, self._config.adapter)
        limit = getattr(model.config, "max_position_embeddings", None)
        self._max_len = self._config.max_model_len or limit or 4096
        self._model = model.eval().to(device)

    async def generate(self, request: Request) -> Response | EngineError:
        """Answer one request; see `LocalEngine`."""
        await self.ready()
        try:
            prompt = self._control.chat(request.messages, **self._config.chat_template_kwargs)
        except ValueError as error:  # the template cannot take these messages
            return EngineError("bad_request", " ".join(str(error).split())[:500])
        if len(prompt) >= self._max_len:
            detail = f"the prompt has {len(prompt)} tokens, the model takes {self._max_len}"
            return EngineError("context_length", detail)
        waiting = _Waiting(request, prompt, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._arrived.set()
        return await waiting.answer

    async def _run_batches(self) -> None:
        while True:
            await self._arrived.wait()
            await asyncio.sleep(_GATHER_SECONDS)
            batch = self._next_batch()
            try:
                answers = await asyncio.to_thread(self._answer, batch)
                answered: list[tuple[_Waiting, Any]] = list(zip(batch, answers, strict=True))
            except Exception as error:
                message = " ".join(str(error).split())[:500]
                failed = EngineError("engine", f"{type(error).__name__}: {message}")
                answered = [(waiting, failed) for waiting in batch]
            for waiting, answer in answered:
                if not waiting.answer.done():
                    waiting.answer.set_result(answer)
            if not self._waiting:
                self._arrived.clear()

    def _next_batch(self) -> list[_Waiting]:
        """Requests with equal sampling settings and similar lengths, to keep padding small."""
        self._waiting.sort(key=lambda w: len(w.prompt))
        sampling = self._waiting[0].request.sampling
        same = [w for w in self._waiting if w.request.sampling == sampling]
        batch = same[: self._config.batch_size]
        taken = {id(w) for w in batch}
        self._waiting = [w for w in self._waiting if id(w) not in taken]
        return batch

    def _answer(self, batch: list[_Waiting]) -> list[Response]:
        import torch

        sampling = batch[0].request.sampling
        padded = self._tokenizer.pad(
            {"input_ids": [w.prompt for w in batch]}, return_tensors="pt"
        ).to(self._model.device)
        # Which requests share a batch depends on timing, so answers drawn at a temperature above
        # zero are repeatable only from storage. vLLM seeds each request by itself.
        torch.manual_seed(batch[0].request.sampling_seed())
        with torch.inference_mode():
            output = self._model.generate(**padded, **self._arguments(sampling))
        width = padded["input_ids"].shape[1]
        return [
            self._response(waiting, tokens.tolist(), sampling)
            for waiting, tokens in zip(batch, output[:, width:], strict=True)
        ]

    def _arguments(self, sampling: Sampling) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "max_new_tokens": sampling.max_tokens,
            "do_sample": sampling.temperature > 0,
            "pad_token_id": self._tokenizer.pad_token_id,
        }
        if sampling.temperature > 0:
            arguments |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        if sampling.stop:
            arguments |= {"stop_strings": list(sampling.stop), "tokenizer": self._tokenizer}
        return arguments

    def _response(self, waiting: _Waiting, tokens: list[int], sampling: Sampling) -> Response:
        ends = self._model.generation_config.eos_token_id
        ends = set(ends) if isinstance(ends, list) else {ends}
        stop_at = next((i for i, token in enumerate(tokens) if token in ends), None)
        kept = tokens if stop_at is None else tokens[:stop_at]
        text = self._thinking.text(kept)
        if text is None:
            text = self._tokenizer.decode(kept, skip_special_tokens=True)
        finished = stop_at is not None
        for stop in sampling.stop:
            if stop in text:
                text, finished = text[: text.index(stop)], True
        return Response(
            # As part of the answer, so that it can be told where the thinking ends.
            text=self._thinking.opened(waiting.prompt) + text,
            finish_reason="stop" if finished else "length",
            prompt_tokens=len(waiting.prompt),
            completion_tokens=len(kept) + (stop_at is not None),
            seconds=time.perf_counter() - waiting.began,
        )
