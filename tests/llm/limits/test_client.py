"""A client that is idle, cut off, or gets no replies."""

from __future__ import annotations

import asyncio

import pytest
from support.limits_cluster import Cluster, api_keys, most_in_window, simulate, spend, stop

from ray_pipeline.core.errors import LockLost
from ray_pipeline.llm.limits.protocol import PICODOLLARS, ClientReport, Grants


def test_with_concurrency_alone_syncs_do_not_grow_with_requests() -> None:
    async def main() -> None:
        cluster = Cluster(api_keys(concurrency=200))
        tasks = cluster.workers(cluster.client(), 400, lambda: {"seconds": 0.2})
        await asyncio.sleep(30)
        await stop(tasks)
        assert len(cluster.starts) >= 0.95 * 30 * 200 / 0.2
        assert cluster.calls <= 30 * 5

    simulate(main)


def test_an_idle_client_keeps_quiet_and_comes_back() -> None:
    async def main() -> None:
        cluster = Cluster()
        client = cluster.client()
        await cluster.request(client)
        await asyncio.sleep(10)
        # What it gave back is there for others at once.
        other = cluster.client()
        crowd = cluster.workers(other, 10, lambda: {"seconds": 1.0})
        await asyncio.sleep(0.5)
        assert cluster.in_flight[repr(other)] == 10
        await stop(crowd)
        await asyncio.sleep(10)
        calls = cluster.calls
        await asyncio.sleep(3600)
        assert cluster.calls == calls
        await asyncio.wait_for(cluster.request(client, seconds=0.1), 0.5)

    simulate(main)


def test_a_cancelled_request_gives_its_place_back() -> None:
    async def main() -> None:
        cluster = Cluster(api_keys(concurrency=1))
        client = cluster.client()
        waiting = [asyncio.create_task(cluster.request(client)) for _ in range(5)]
        await asyncio.sleep(0.1)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.wait_for(cluster.request(client), 2)

    simulate(main)


def test_a_client_cut_off_from_the_server_stops_before_its_slots_are_given_away() -> None:
    async def main() -> None:
        cluster = Cluster(api_keys(concurrency=20))
        cut = False

        async def network(report: ClientReport) -> Grants:
            if cut:
                raise ConnectionError("no route")
            return await cluster.call(report)

        first, second = cluster.client(network), cluster.client()
        tasks = cluster.workers(first, 50, lambda: {"seconds": 0.2})
        tasks += cluster.workers(second, 50, lambda: {"seconds": 0.2})
        await asyncio.sleep(5)
        cut = True
        await asyncio.sleep(20)
        assert cluster.in_flight[repr(first)] == 0
        assert cluster.most_in_flight <= 20
        cut = False
        await asyncio.sleep(5)
        assert cluster.in_flight[repr(first)] >= 8
        assert cluster.most_in_flight <= 20
        await stop(tasks)

    simulate(main)


def test_a_lost_reply_counts_nothing_twice() -> None:
    async def main() -> None:
        cluster = Cluster(api_keys(requests_per_minute=600), max_cost_usd=10.0)

        async def lossy(report: ClientReport) -> Grants:
            grants = await cluster.call(report)
            if cluster.random.random() < 0.3:
                raise ConnectionError("the reply was lost")
            return grants

        client = cluster.client(lossy)
        tasks = cluster.workers(client, 10, spend(cluster, 0.001))
        await asyncio.sleep(60)
        await stop(tasks)
        await asyncio.sleep(5)
        spent = cluster.server.cost.spent / PICODOLLARS
        assert spent == pytest.approx(cluster.settled_usd, abs=1e-9)
        assert most_in_window([(time, 1) for time, *_ in cluster.starts]) <= 600

    simulate(main)


def test_a_server_that_cannot_be_reached_ends_the_run() -> None:
    async def main() -> None:
        cluster = Cluster()

        async def gone(report: ClientReport) -> Grants:
            raise ConnectionError("actor died")

        tasks = cluster.workers(cluster.client(gone), 3, dict)
        await asyncio.wait_for(asyncio.gather(*tasks), 100)
        (message,) = cluster.errors
        assert "could not be reached" in message

    simulate(main)


def test_a_request_is_not_sent_once_the_run_has_lost_its_directory() -> None:
    async def main() -> None:
        cluster = Cluster(api_keys(concurrency=1))
        client = cluster.client()
        await cluster.request(client)
        first = asyncio.create_task(cluster.request(client))
        waiting = asyncio.create_task(cluster.request(client))
        await asyncio.sleep(0.1)
        sent = len(cluster.starts)

        def lost() -> None:
            raise LockLost("another run has it")

        client.before_sending = lost
        await first  # was in flight
        for request in (waiting, cluster.request(client)):
            with pytest.raises(LockLost):
                await request
        assert len(cluster.starts) == sent == 2

    simulate(main)
