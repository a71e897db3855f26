"""Leases on keys: rotation, pauses, retired keys, and their end."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from support.limits_cluster import Cluster, api_keys, now, simulate, stop

from ray_pipeline.llm.limits.protocol import Estimate


def test_keys_rotate_and_a_pause_is_obeyed_by_all() -> None:
    async def main() -> None:
        cluster = Cluster(api_keys("A", "B", concurrency=5))
        clients = [cluster.client() for _ in range(3)]
        tasks = [
            task
            for client in clients
            for task in cluster.workers(client, 10, lambda: {"seconds": 0.2})
        ]
        await asyncio.sleep(10)
        keys = Counter(key for _, _, key, _ in cluster.starts)
        assert keys["llm/A"] == pytest.approx(keys["llm/B"], rel=0.1)

        lease = None
        while lease is None or lease.key_label != "llm/A":
            if lease is not None:
                lease.release()
                await asyncio.sleep(0.01)
            lease = await cluster.llm(clients[0]).start(Estimate(), again=True)
        paused_at = now()
        lease.pause(20)
        lease.release()
        await asyncio.sleep(40)
        while_paused = [k for t, _, k, _ in cluster.starts if paused_at + 0.5 < t < paused_at + 20]
        afterwards = Counter(k for t, _, k, _ in cluster.starts if t > paused_at + 21)
        assert set(while_paused) == {"llm/B"}
        assert afterwards["llm/A"] == pytest.approx(afterwards["llm/B"], rel=0.1)
        await stop(tasks)

    simulate(main)


def test_a_retired_key_is_retired_for_all_and_the_last_one_stops_the_run() -> None:
    async def main() -> None:
        cluster = Cluster(api_keys("A", "B"))
        clients = [cluster.client() for _ in range(2)]
        tasks = [
            task
            for client in clients
            for task in cluster.workers(client, 8, lambda: {"seconds": 0.2})
        ]
        await asyncio.sleep(2)
        for key in ("llm/A", "llm/B"):
            lease = None
            while lease is None or lease.key_label != key:
                if lease is not None:
                    lease.release()
                    await asyncio.sleep(0.01)
                lease = await cluster.llm(clients[0]).start(Estimate(), again=True)
            retired_at = now()
            lease.retire("HTTP 401")
            lease.release()
            await asyncio.sleep(3)
            assert not [k for t, _, k, _ in cluster.starts if t > retired_at + 0.5 and k == key]
        await asyncio.gather(*tasks)
        (message,) = cluster.errors
        assert message.startswith("RunError: llms.llm: no usable API key is left")
        assert "A: HTTP 401" in message
        assert "B: HTTP 401" in message

    simulate(main)


def test_a_lease_ends_once() -> None:
    async def main() -> None:
        cluster = Cluster()
        lease = await cluster.llm(cluster.client()).start(Estimate())
        lease.release()
        with pytest.raises(ValueError, match="once"):
            lease.release()

    simulate(main)


def test_a_lease_ends_with_its_block_whatever_is_raised_in_it() -> None:
    async def main() -> None:
        cluster = Cluster(api_keys("A", concurrency=1))
        llm = cluster.llm(cluster.client())
        for _ in range(3):  # with one slot, the next start waits for the end of the last
            with pytest.raises(ZeroDivisionError), await llm.start(Estimate(cost=7, tokens=5)):
                raise ZeroDivisionError
        assert (llm.cost.in_use, llm.tokens.in_use) == (0, 0)
        assert (llm.cost.lost, llm.tokens.lost) == (21, 15)
        with await llm.start(Estimate(cost=7, tokens=5)) as lease:
            lease.release()
        assert llm.cost.lost == 21

    simulate(main)
