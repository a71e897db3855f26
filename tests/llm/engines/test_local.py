"""The two local engines in their actors: answers, guided decoding, errors, no orphans."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from importlib.util import find_spec
from typing import Any

import psutil
import pytest

from ray_pipeline.llm.config import LlmConfig
from ray_pipeline.llm.types import AnswerFormat, EngineError, Request, Sampling
from ray_pipeline.models import packaged as models
from ray_pipeline.rundir.responses import Response

MODEL = "smollm2-135m-instruct"
ENGINES = [
    pytest.param(
        "vllm",
        marks=[
            pytest.mark.vllm,
            pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed here"),
        ],
    ),
    "transformers",
]


def ask(text: str, **more: Any) -> Request:
    sampling = more.pop("sampling", Sampling(max_tokens=24, temperature=0.0))
    message = {"role": "user", "content": text}
    return Request("ask", MODEL, "r", (message,), sampling, **more)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_in_its_actor(ray_cluster: str, engine: str) -> None:
    import ray

    from ray_pipeline.llm.engines.pool import start_pool

    # Few tokens a step, so that prompts have to wait for each other.
    few = {"max_num_batched_tokens": 512} if engine == "vllm" else {}
    config = LlmConfig(
        engine=engine, model=MODEL, max_model_len=512, max_num_seqs=8, engine_args=few
    )
    (actor,) = asyncio.run(start_pool("m", config, models.resolve(MODEL)))

    def answers(*requests: Request) -> list[Any]:
        return ray.get([actor.generate.remote(request) for request in requests], timeout=300)

    paris, again, stopped, too_long = answers(
        ask("What is the capital of France?"),
        ask("What is the capital of France?"),
        ask("Count: one two three", sampling=Sampling(24, 0.0, stop=("a", "e", "i", "o", "u"))),
        ask("word " * 2000),
    )
    assert isinstance(paris, Response)
    assert "Paris" in paris.text
    assert (paris.finish_reason, paris.text) == ("stop", again.text)
    assert paris.prompt_tokens > 10
    assert 0 < paris.completion_tokens <= 24
    assert not set("aeiou") & set(stopped.text)
    assert isinstance(too_long, EngineError)
    assert too_long.code == "context_length"

    # Seeded sampling of long prompts once killed the engine on a CPU.
    drawn = answers(*[ask(f"{i} " * 150, sampling=Sampling(8, 0.7)) for i in range(8)])
    assert all(isinstance(answer, Response) for answer in drawn)

    if engine == "vllm":
        schema = {
            "type": "object",
            "properties": {"n": {"type": "integer"}},
            "required": ["n"],
            "additionalProperties": False,
        }
        label, made = answers(
            ask("Is snow white?", format=AnswerFormat("label", ("yes", "no"))),
            ask(
                "A number.", sampling=Sampling(64, 0.0), format=AnswerFormat("json", schema=schema)
            ),
        )
        assert label.text in ("yes", "no")
        assert list(json.loads(made.text)) == ["n"]
        _kill_and_look_for_orphans(actor)
    ray.kill(actor)


def _kill_and_look_for_orphans(actor: Any) -> None:
    """The engine's own processes end with the actor that owns them."""
    # Below this process only: the machine may run other clusters.
    ours = psutil.Process().children(recursive=True)
    (owner,) = [p for p in ours if "ray::VllmEngine" in " ".join(p.cmdline())]
    children = owner.children(recursive=True)
    assert children
    os.kill(owner.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(child.is_running() for child in children) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not [child for child in children if child.is_running()]
