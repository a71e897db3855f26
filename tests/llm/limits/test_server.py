"""A server that loses clients, and one that is started again."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from support.limits_cluster import (
    Cluster,
    api_keys,
    most_in_window,
    run_rate,
    simulate,
    spend,
    stop,
)

from ray_pipeline.core.errors import RunError
from ray_pipeline.llm.limits.protocol import PICODOLLARS, ClientReport, Estimate, Grants, KeyLimits


def test_a_dead_clients_slots_come_back() -> None:
    async def main() -> None:
        cluster = Cluster(api_keys(concurrency=20))
        dead = True

        async def mortal(report: ClientReport) -> Grants:
            if dead:
                await asyncio.Event().wait()
            return await cluster.call(report)

        dead = False
        first, second = cluster.client(mortal), cluster.client()
        doomed = cluster.workers(first, 50, lambda: {"seconds": 1.0})
        await asyncio.sleep(5)
        tasks = cluster.workers(second, 50, lambda: {"seconds": 1.0})
        await asyncio.sleep(5)
        assert 8 <= cluster.in_flight[repr(second)] <= 12
        dead = True
        await stop(doomed)
        await asyncio.sleep(7)
        assert cluster.in_flight[repr(second)] == 20
        await stop(tasks)

    simulate(main)


def test_a_killed_clients_reservation_stays_taken() -> None:
    async def main() -> None:
        cluster = Cluster(api_keys(concurrency=20), max_cost_usd=0.2)
        dead = False

        async def mortal(report: ClientReport) -> Grants:
            if dead:
                await asyncio.Event().wait()
            return await cluster.call(report)

        doomed = cluster.workers(cluster.client(mortal), 20, spend(cluster, 0.001))
        tasks = cluster.workers(cluster.client(), 20, spend(cluster, 0.001))
        await asyncio.sleep(1.5)
        dead = True
        await stop(doomed)
        await asyncio.wait_for(asyncio.gather(*tasks), 60)
        cost = cluster.server.cost
        assert cluster.billed <= 0.2
        assert 0 < cost.unknown / PICODOLLARS < 0.04  # about twice what it had in flight
        assert (cost.spent + cost.unknown) / PICODOLLARS <= 0.2

    simulate(main)


@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("limit", [10, 100, 600])
def test_a_server_that_is_started_again_lets_little_more_than_the_limit_through(
    limit: int, restarts: int
) -> None:
    cluster = run_rate(limit, 2, 2, restarts=restarts)
    # As docs/concepts/language-models.md says: each restart adds two seconds' worth of requests, or
    # one or two.
    most = most_in_window([(time, 1) for time, *_ in cluster.starts])
    assert most <= limit + restarts * (2 + 2 * limit / 60)


def test_a_restarted_server_knows_what_the_journal_knows() -> None:
    async def main() -> None:
        cluster = Cluster(max_cost_usd=0.5)
        tasks = [
            task
            for _ in range(2)
            for task in cluster.workers(cluster.client(), 10, spend(cluster, 0.001))
        ]
        await asyncio.sleep(2)
        cluster.server = cluster.new_server(cluster.settled_usd)
        await asyncio.wait_for(asyncio.gather(*tasks), 300)
        assert cluster.billed <= 0.5 + 0.02  # what settled between the journal and the first sync
        assert cluster.billed >= 0.47

    simulate(main)


def test_unknown_keys_are_refused() -> None:
    async def main() -> None:
        cluster = Cluster()
        client = cluster.client()
        other = client.llm("other", {"other/KEY": KeyLimits(concurrency=1)})
        task = asyncio.create_task(other.start(Estimate()))
        with contextlib.suppress(TimeoutError), pytest.raises(RunError, match="other/KEY"):
            await asyncio.wait_for(task, 100)

    simulate(main)
