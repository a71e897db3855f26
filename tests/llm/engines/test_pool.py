"""The pool of a local engine, without Ray's actors: whatever they return, the lease ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ray_pipeline.llm.config import LlmConfig
from ray_pipeline.llm.engines.base import key_limits
from ray_pipeline.llm.engines.pool import PooledEngine
from ray_pipeline.llm.engines.transformers import TransformersEngine, _Waiting
from ray_pipeline.llm.limits.client import LimitsClient
from ray_pipeline.llm.limits.protocol import ClientReport, Grants
from ray_pipeline.llm.limits.server import LimitsServer
from ray_pipeline.llm.types import EngineError, Request
from ray_pipeline.rundir.responses import Response

REQUEST = Request("s", "m", "", ({"role": "user", "content": "hi"},))


class Actor:
    """An actor handle whose calls return or raise what it was made with."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome

    @property
    def generate(self) -> Actor:
        return self

    def remote(self, _: Request) -> Any:
        async def call() -> Any:
            if isinstance(self.outcome, BaseException) and not isinstance(
                self.outcome, EngineError
            ):
                raise self.outcome
            return self.outcome

        return call()


@pytest.mark.parametrize(
    "outcome",
    [
        Response("a", "stop", 3, 1),
        EngineError("context_length", "too long"),
        None,
        {"text": "a"},
        Response("a", "stop", None, "1"),  # type: ignore[arg-type]
        MemoryError("of the object store"),
    ],
    ids=lambda outcome: type(outcome).__name__,
)
def test_whatever_an_actor_returns_its_lease_ends(outcome: Any) -> None:
    async def main() -> Any:
        config = LlmConfig(engine="transformers", model="m")
        server = LimitsServer(key_limits({"llm": config}), max_tokens=10_000)

        async def call(report: ClientReport) -> Grants:
            return server.sync(report)

        async def actors() -> list[Any]:
            return [Actor(outcome)]

        limits = LimitsClient("test", call)
        engine = PooledEngine("llm", config, actors, limits)
        (result,) = await asyncio.gather(engine.generate(REQUEST), return_exceptions=True)
        assert limits.llm("llm", {}).keys[0].in_use == 0
        assert limits.tokens.in_use == 0
        await limits.close()
        return result

    result = asyncio.run(main())
    assert isinstance(
        result, Response if isinstance(outcome, Response) and outcome.prompt_tokens else Exception
    )


def test_a_batch_with_too_few_answers_fails_its_requests_and_not_the_engine() -> None:
    async def main() -> list[Any]:
        engine = TransformersEngine(LlmConfig(engine="transformers", model="m"), "m")
        answers = iter([[], [Response("a", "stop", 2, 1)]])
        engine._answer = lambda _: next(answers)  # type: ignore[method-assign]
        loop = asyncio.create_task(engine._run_batches())
        outcomes = []
        async with asyncio.timeout(10):
            for _ in range(2):
                waiting = _Waiting(REQUEST, [1, 2], asyncio.get_running_loop().create_future())
                engine._waiting.append(waiting)
                engine._arrived.set()
                outcomes.append(await waiting.answer)
        loop.cancel()
        return outcomes

    failed, answered = asyncio.run(main())
    assert isinstance(failed, EngineError) and failed.code == "engine"
    assert isinstance(answered, Response)
