"""Pools of local engines: Ray actors that hold a model, shared by every stage that names it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from ray_pipeline.core.errors import RunError, cause_in_words
from ray_pipeline.llm.limits.client import LimitsClient
from ray_pipeline.llm.types import EngineError, Request
from ray_pipeline.rundir.responses import Response

if TYPE_CHECKING:
    from ray_pipeline.llm.config import LlmConfig

#: After this number of engine deaths during a request, the request counts as their cause.
_MAX_DEATHS = 3
#: Seconds that an engine may take to restart after it died.
_RESTART_PATIENCE = 300.0


async def start_pool(name: str, config: LlmConfig, model: str) -> list[Any]:
    """Start a model's actors and wait until each can answer.

    Raises:
        RunError: an engine did not start; the message ends with the engine's error.
    """
    actors = [_actor(config).remote(config, model) for _ in range(config.actors)]
    try:
        await asyncio.gather(*(actor.ready.remote() for actor in actors))
    except Exception as error:
        for actor in actors:
            ray.kill(actor)
        raise RunError(
            f"the engine for llm {name!r} ({config.model}) did not start: {cause_in_words(error)}"
        ) from None
    return actors


def _actor(config: LlmConfig) -> Any:
    engine: Any = config.engine_type
    return ray.remote(engine).options(
        num_cpus=config.num_cpus or 0,
        num_gpus=engine.gpus(config, ray.cluster_resources().get("GPU", 0)),
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=10_000,
        scheduling_strategy="SPREAD",
    )


class PooledEngine:
    """A local model as a worker uses it: the least busy actor of the pool answers.

    Args:
        name: the model's name under ``llms``.
        config: its configuration.
        actors: returns the pool's actors, and starts them if they are not running.
        limits: the process's share of the run's limits.
    """

    def __init__(
        self,
        name: str,
        config: LlmConfig,
        actors: Callable[[], Awaitable[list[Any]]],
        limits: LimitsClient,
    ) -> None:
        self._name = name
        self._config = config
        self._engine = config.engine_type
        self._limits = limits.llm(name, self._engine.key_limits(name, config))
        self._actors = actors
        self._busy: dict[Any, int] = {}
        self._slots = asyncio.Semaphore(self._engine.requests_at_once(config))
        self._alone = asyncio.Lock()

    async def generate(self, request: Request) -> Response:
        """Answer one request; see `ray_pipeline.llm.types.Engine`."""
        for deaths in range(_MAX_DEATHS):
            # After two deaths of an engine with this request and others in flight, such requests
            # are sent one at a time, so that only the request that kills the engine fails.
            gate = self._slots if deaths < _MAX_DEATHS - 1 else self._alone
            try:
                async with gate:
                    return await self._within_budget(request)
            except (ActorDiedError, ActorUnavailableError):
                await self._wait_for_restart()
        raise EngineError("engine_died", f"the engine died {_MAX_DEATHS} times under this request")

    async def _within_budget(self, request: Request) -> Response:
        tokens = self._engine.request_tokens(self._config, request)
        with await self._limits.start(tokens.reservation(prices=None)) as lease:
            try:
                response = await self._send(request)
            except BaseException:
                lease.release()  # an engine of our own bills nothing
                raise
            lease.settle(response.prompt_tokens + response.completion_tokens, 0.0)
            return response

    async def _send(self, request: Request) -> Response:
        actors = await self._actors()
        actor = min(actors, key=lambda a: self._busy.get(a, 0))
        self._busy[actor] = self._busy.get(actor, 0) + 1
        try:
            answer = await actor.generate.remote(request)
        except RayTaskError as error:
            if isinstance(error.cause, EngineError):
                raise error.cause from None
            raise EngineError("engine", cause_in_words(error)) from None
        finally:
            self._busy[actor] -= 1
        if isinstance(answer, EngineError):
            raise answer
        if not isinstance(answer, Response):  # an engine of another package
            raise EngineError("engine", f"the engine returned {type(answer).__name__}")
        return answer

    async def _wait_for_restart(self) -> None:
        deadline = asyncio.get_running_loop().time() + _RESTART_PATIENCE
        while True:
            try:
                actors = await self._actors()
                await asyncio.gather(*(actor.ready.remote() for actor in actors))
                return
            except (ActorDiedError, ActorUnavailableError):
                if asyncio.get_running_loop().time() > deadline:
                    raise RunError(
                        f"the engine for llm {self._name!r} died and did not come back"
                    ) from None
                await asyncio.sleep(1.0)

    async def close(self) -> None:
        """Nothing to close: the pool belongs to the run."""
