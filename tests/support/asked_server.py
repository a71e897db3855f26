"""The `openai` engine with limits of its own, for tests that ask a server directly."""

from __future__ import annotations

import asyncio
from typing import Any

from ray_pipeline.llm.config import LlmConfig
from ray_pipeline.llm.engines.base import key_limits
from ray_pipeline.llm.engines.openai import OpenAIEngine
from ray_pipeline.llm.limits.client import LimitsClient
from ray_pipeline.llm.limits.protocol import ClientReport, Grants
from ray_pipeline.llm.limits.server import LimitsServer
from ray_pipeline.llm.types import Request, Sampling
from ray_pipeline.rundir.responses import Response


def llm_config(base_url: str, **options: Any) -> LlmConfig:
    """A model of a server without keys and with little patience."""
    common = {"engine": "openai", "model": "m", "base_url": base_url, "api_keys_env": []}
    quick = {"max_tries": 3, "max_backoff_seconds": 0.01, "timeout_seconds": 5.0}
    prices = {"prompt": 1.0, "completion": 2.0}
    return LlmConfig(**{**common, **quick, "usd_per_million": prices, **options})


class Asked:
    """What came of requests, and what they left of the limits."""

    def __init__(self, config: LlmConfig, max_cost_usd: float | None = None) -> None:
        self._server = LimitsServer(key_limits({"llm": config}), max_cost_usd=max_cost_usd)

        async def call(report: ClientReport) -> Grants:
            return self._server.sync(report)

        self.limits = LimitsClient("test", call)
        self.engine = OpenAIEngine("llm", config, self.limits)
        self.llm = self.limits.llm("llm", {})

    async def ask(self, texts: list[str]) -> list[Any]:
        """The response or the exception of each text."""
        requests = [
            Request("s", "m", "", ({"role": "user", "content": text},), Sampling(max_tokens=16))
            for text in texts
        ]
        asked = (self.engine.generate(request) for request in requests)
        return await asyncio.gather(*asked, return_exceptions=True)

    def assert_all_leases_have_ended(self) -> None:
        """No slot, no money and no token is reserved any more."""
        assert [key.in_use for key in self.llm.keys] == [0] * len(self.llm.keys)
        assert (self.limits.cost.in_use, self.limits.tokens.in_use) == (0, 0)

    async def close(self) -> None:
        """Close the connections."""
        await self.limits.close()
        await self.engine.close()


def asked(config: LlmConfig, texts: list[str], patience: float = 60.0) -> list[Any]:
    """Ask for all texts at once; every lease has ended afterwards."""

    async def main() -> list[Any]:
        session = Asked(config)
        async with asyncio.timeout(patience):
            outcomes = await session.ask(texts)
        session.assert_all_leases_have_ended()
        await session.close()
        return outcomes

    return asyncio.run(main())


def in_short(outcome: Any) -> str:
    """The answer's text, or the error's code or message."""
    if isinstance(outcome, Response):
        return outcome.text
    return getattr(outcome, "code", None) or f"{type(outcome).__name__}: {outcome}"
