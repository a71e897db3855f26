"""A limits server and its clients on a clock that jumps: hours of traffic in a second."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from ray_pipeline.core.errors import BudgetExhausted, RunError
from ray_pipeline.llm.limits.client import LimitsClient, LlmLimits
from ray_pipeline.llm.limits.protocol import (
    ClientReport,
    Estimate,
    Grants,
    KeyLimits,
    picodollars,
)
from ray_pipeline.llm.limits.server import LimitsServer

# --------------------------------------------------------------------------- time that jumps


class _JumpingSelector(selectors.SelectSelector):
    """Instead of waiting for the next timer, moves the clock there."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("everything waits and nothing is scheduled: a deadlock")
            self.now += timeout
        return ready


class _JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.jumping = _JumpingSelector()
        super().__init__(self.jumping)

    def time(self) -> float:
        return self.jumping.now


def simulate(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=_JumpingLoop) as runner:
        runner.run(main())


def now() -> float:
    return asyncio.get_running_loop().time()


# --------------------------------------------------------------------------- a cluster


def api_keys(*names: str, concurrency: int = 10, **limits: Any) -> dict[str, KeyLimits]:
    """Limits of the keys of the model ``llm``."""
    return {f"llm/{name}": KeyLimits(concurrency, **limits) for name in names or ("KEY",)}


@dataclass
class Cluster:
    """A limits server, clients that reach it over a slow network, and what they did."""

    keys: dict[str, KeyLimits] = field(default_factory=api_keys)
    max_cost_usd: float | None = None
    max_tokens: int | None = None
    seed: int = 0
    spent_usd: float = 0.0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.server = self.new_server(self.spent_usd)
        self.calls = 0
        self.starts: list[tuple[float, str, str, int]] = []  # time, client, key, tokens
        self.in_flight: Counter[str] = Counter()
        self.most_in_flight = 0
        self.billed = 0.0
        self.settled_usd = 0.0
        self.errors: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.clients: list[LimitsClient] = []

    def new_server(self, spent_usd: float = 0.0) -> LimitsServer:
        return LimitsServer(
            self.keys,
            max_cost_usd=self.max_cost_usd,
            max_tokens=self.max_tokens,
            spent_usd=spent_usd,
            clock=now,
        )

    async def call(self, report: ClientReport) -> Grants:
        self.calls += 1
        await asyncio.sleep(self.random.uniform(0.001, 0.03))
        grants = self.server.sync(report)
        await asyncio.sleep(self.random.uniform(0.001, 0.03))
        return grants

    def client(self, call: Callable[[ClientReport], Any] | None = None) -> LimitsClient:
        client = LimitsClient(f"client-{len(self.clients)}", call or self.call)
        self.clients.append(client)
        return client

    def llm(self, client: LimitsClient) -> LlmLimits:
        return client.llm("llm", self.keys)

    async def request(
        self,
        client: LimitsClient,
        estimate: Estimate = Estimate(),  # noqa: B008
        seconds: float = 0.3,
        tokens: int = 0,
        cost_usd: float = 0.0,
        lost: bool = False,
    ) -> None:
        lease = await self.llm(client).start(estimate)
        name = repr(client)
        self.starts.append((now(), name, lease.key_label, tokens))
        self.in_flight[name] += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight.total())
        self.billed += cost_usd
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            lease.lose()
            raise
        finally:
            self.in_flight[name] -= 1
        if lost:
            lease.lose()
        else:
            lease.settle(tokens, cost_usd)
            self.settled_usd += cost_usd
        self.done[name] += 1

    async def worker(self, client: LimitsClient, one: Callable[[], dict[str, Any]]) -> None:
        """Requests one after another until something stops it."""
        try:
            while True:
                await self.request(client, **one())
        except (BudgetExhausted, RunError) as error:
            self.errors[f"{type(error).__name__}: {error}"] += 1

    def workers(
        self, client: LimitsClient, number: int, one: Callable[[], dict[str, Any]]
    ) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self.worker(client, one)) for _ in range(number)]


async def stop(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def most_in_window(events: list[tuple[float, int]], seconds: float = 60.0) -> int:
    """The largest sum of amounts in any sliding window."""
    events = sorted(events)
    most = amount = first = 0
    for time, value in events:
        amount += value
        while events[first][0] <= time - seconds:
            amount -= events[first][1]
            first += 1
        most = max(most, amount)
    return most


def spend(cluster: Cluster, worst_usd: float, lost: float = 0.0) -> Callable[[], dict[str, Any]]:
    def one() -> dict[str, Any]:
        worst = worst_usd * cluster.random.uniform(0.5, 1.0)
        return {
            "estimate": Estimate(cost=picodollars(worst), tokens=100),
            "seconds": cluster.random.uniform(0.05, 0.5),
            "tokens": 40,
            "cost_usd": worst * cluster.random.uniform(0.1, 1.0),
            "lost": cluster.random.random() < lost,
        }

    return one


def run_rate(limit: int, clients: int, minutes: float, seed: int = 0, restarts: int = 0) -> Cluster:
    cluster: Cluster

    async def main() -> None:
        nonlocal cluster
        cluster = Cluster(api_keys(concurrency=500, requests_per_minute=limit), seed=seed)
        tasks = [
            task
            for _ in range(clients)
            for task in cluster.workers(cluster.client(), 30, lambda: {"seconds": 0.3})
        ]
        await asyncio.sleep(30)
        for _ in range(restarts):
            cluster.server = cluster.new_server()
            await asyncio.sleep(2)
        await asyncio.sleep(minutes * 60 - 30 - 2 * restarts)
        await stop(tasks)

    simulate(main)
    return cluster
