"""Pauses that a server asks for: all clients obey, report them, and wait for a bounded time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from support.limits_cluster import Cluster, api_keys, now, simulate

from ray_pipeline.core.errors import RunError
from ray_pipeline.llm.limits.client import LimitsClient, LlmLimits
from ray_pipeline.llm.limits.protocol import Estimate

PATIENCE = 900.0
WORDS = "HTTP 429: Rate limit reached: requests per day (RPD)"


def of(cluster: Cluster, client: LimitsClient) -> LlmLimits:
    return client.llm("llm", cluster.keys, PATIENCE)


async def paused(cluster: Cluster, client: LimitsClient, seconds: float, key: str = "KEY") -> None:
    """One request that the server answers with a pause."""
    lease = await of(cluster, client).start(Estimate())
    assert lease.key_label == f"llm/{key}"
    lease.pause(seconds, WORDS)
    lease.release()


async def outcomes(*waiting: Any) -> list[Any]:
    return await asyncio.gather(*waiting, return_exceptions=True)


def test_a_pause_longer_than_the_patience_fails_all_requests_when_that_is_over() -> None:
    async def main() -> None:
        cluster = Cluster()
        first, second = cluster.client(), cluster.client()
        await paused(cluster, first, 86_400)
        await asyncio.sleep(5)
        began = now()
        waiting = [asyncio.create_task(of(cluster, c).start(Estimate())) for c in (first, second)]
        await asyncio.sleep(PATIENCE - 1)
        assert not any(task.done() for task in waiting)
        for error in await outcomes(*waiting):
            assert isinstance(error, RunError)
            assert "the server asks to wait until 2" in str(error) and "(KEY)" in str(error)
            assert WORDS in str(error) and "give_up_after_seconds, 900 s" in str(error)
            assert "set llms.llm.give_up_after_seconds to 8" in str(error)
        assert now() - began == pytest.approx(PATIENCE, abs=1)

    simulate(main)


def test_a_pause_within_the_patience_is_waited_for() -> None:
    async def main() -> None:
        cluster = Cluster()
        client = cluster.client()
        await paused(cluster, client, PATIENCE - 10)
        lease = await of(cluster, client).start(Estimate())
        assert now() == pytest.approx(PATIENCE - 10, abs=1)
        lease.release()

    simulate(main)


def test_the_patience_counts_from_when_a_request_waits() -> None:
    async def main() -> None:
        cluster = Cluster()
        client = cluster.client()
        await paused(cluster, client, 7200)
        await asyncio.sleep(7000)  # nothing waits meanwhile
        lease = await of(cluster, client).start(Estimate())
        lease.release()

    simulate(main)


def test_another_key_goes_on_at_once() -> None:
    async def main() -> None:
        cluster = Cluster(api_keys("A", "B", concurrency=2))
        first, second = cluster.client(), cluster.client()
        limits = of(cluster, first)
        lease = await limits.start(Estimate())
        lease.pause(86_400, WORDS)
        lease.release()
        other = {"llm/A": "llm/B", "llm/B": "llm/A"}[lease.key_label]
        await asyncio.sleep(1)
        for client in (first, second) * 20:
            lease = await of(cluster, client).start(Estimate())
            assert lease.key_label == other
            lease.release()
        assert now() < PATIENCE

    simulate(main)


def test_the_server_reports_who_waits_for_what() -> None:
    async def main() -> None:
        cluster = Cluster(api_keys("A", concurrency=2))
        first, second = cluster.client(), cluster.client()
        await paused(cluster, first, 3600, "A")
        waiting = [
            asyncio.create_task(of(cluster, client).start(Estimate()))
            for client in (first, second, second)
        ]
        await asyncio.sleep(100)
        (use,) = cluster.server.uses()
        assert (use.llm, use.key, use.waiting, use.in_flight) == ("llm", "A", 3, 0)
        assert use.pause_seconds == pytest.approx(3500, abs=1)
        assert use.pause_reason == WORDS
        for task in waiting:
            task.cancel()
        await outcomes(*waiting)

    simulate(main)


def test_the_server_reports_the_age_of_what_is_in_flight() -> None:
    async def main() -> None:
        cluster = Cluster(api_keys("A", concurrency=2))
        client = cluster.client()
        leases = [await of(cluster, client).start(Estimate()) for _ in range(2)]
        waiting = asyncio.create_task(of(cluster, client).start(Estimate()))
        await asyncio.sleep(100)
        (use,) = cluster.server.uses()
        assert (use.in_flight, use.waiting, use.tries) == (2, 1, 2)
        assert use.oldest_seconds == pytest.approx(100, abs=1)
        for lease in leases:
            lease.release()
        (await waiting).release()
        await asyncio.sleep(5)
        assert cluster.server.uses()[0].tries == 3
        assert cluster.server.uses()[0].oldest_seconds == 0

    simulate(main)
