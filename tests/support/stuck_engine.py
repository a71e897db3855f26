"""Engines of another package that keep their requests, or take their time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ray_pipeline.llm.engines.base import RemoteEngine
from ray_pipeline.llm.limits.client import LimitsClient
from ray_pipeline.llm.types import Request
from ray_pipeline.rundir.responses import Response

if TYPE_CHECKING:
    from ray_pipeline.llm.config import LlmConfig


class _Engine(RemoteEngine):
    def __init__(self, name: str, config: LlmConfig, limits: LimitsClient) -> None:
        self._config = config
        self._limits = limits.llm(name, self.key_limits(name, config))

    async def close(self) -> None: ...


class NeverAnswers(_Engine):
    """Waits for each answer without a time-out."""

    async def generate(self, request: Request) -> Response:
        tokens = self.request_tokens(self._config, request)
        with await self._limits.start(tokens.reservation(None)):
            await asyncio.Event().wait()
        raise AssertionError


class LeaksLeases(_Engine):
    """Answers, and does not end its leases."""

    async def generate(self, request: Request) -> Response:
        tokens = self.request_tokens(self._config, request)
        await self._limits.start(tokens.reservation(None))
        return Response("an answer", "stop", prompt_tokens=1, completion_tokens=1)


class Slow(_Engine):
    """Answers just within its time-out."""

    async def generate(self, request: Request) -> Response:
        tokens = self.request_tokens(self._config, request)
        with await self._limits.start(tokens.reservation(None)) as lease:
            await asyncio.sleep(0.8)
            lease.settle(2, 0.0)
        return Response("an answer", "stop", prompt_tokens=1, completion_tokens=1)
