"""Engines of another package, a file: they answer with the question in capitals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray_pipeline.core.errors import UserError
from ray_pipeline.llm.engines.base import LocalEngine, RemoteEngine
from ray_pipeline.llm.limits.client import LimitsClient
from ray_pipeline.llm.types import Request
from ray_pipeline.rundir.responses import Response

if TYPE_CHECKING:
    from ray_pipeline.llm.config import LlmConfig


class EchoEngine(RemoteEngine):
    """A "server" that needs nothing but a URL of its kind."""

    def __init__(self, name: str, config: LlmConfig, limits: LimitsClient) -> None:
        self._config = config
        self._limits = limits.llm(name, self.key_limits(name, config))

    @classmethod
    def check(cls, name: str, config: LlmConfig) -> None:
        super().check(name, config)
        if not (config.base_url or "").startswith("echo://"):
            raise UserError(f"llms.{name}.base_url: {config.base_url!r} is not a URL like echo://x")

    async def generate(self, request: Request) -> Response:
        tokens = self.request_tokens(self._config, request)
        prices = self._config.usd_per_million
        with await self._limits.start(tokens.reservation(prices)) as lease:
            response = _echo(request)
            used = (response.prompt_tokens, response.completion_tokens)
            response.cost_usd = prices.cost(*used) if prices else 0.0
            lease.settle(sum(used), response.cost_usd)
        return response

    async def close(self) -> None: ...


class LocalEchoEngine(LocalEngine):
    """A "model" in a pool of actors."""

    def __init__(self, config: LlmConfig, model: str) -> None: ...

    async def ready(self) -> bool:
        return True

    async def generate(self, request: Request) -> Response:
        return _echo(request)


def _echo(request: Request) -> Response:
    text = request.messages[-1]["content"]
    return Response(text.upper(), "stop", prompt_tokens=5, completion_tokens=5)
