"""How slots, rates and money are shared: the limits hold whatever clients do."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.limits_cluster import (
    Cluster,
    api_keys,
    most_in_window,
    run_rate,
    simulate,
    spend,
    stop,
)

from ray_pipeline.llm.limits.protocol import PICODOLLARS, Estimate, picodollars


@pytest.mark.parametrize("clients", [1, 3])
@pytest.mark.parametrize("limit", [1, 3, 100, 600, 3000])
def test_no_minute_sees_more_starts_than_the_limit(limit: int, clients: int) -> None:
    minutes = 4 if limit < 100 else 2
    cluster = run_rate(limit, clients, minutes)
    starts = [(time, 1) for time, *_ in cluster.starts]
    assert most_in_window(starts) <= limit
    late = sum(time > 60 for time, _ in starts) / (minutes - 1)
    assert late >= 0.93 * limit if limit >= 100 else late >= 0.8 * limit
    if limit >= 100:
        per_client = Counter(client for _, client, *_ in cluster.starts)
        assert min(per_client.values()) > 0.7 * len(starts) / clients


@settings(max_examples=5, deadline=None)
@given(limit=st.integers(1, 400), clients=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_rates_hold_for_any_cluster(limit: int, clients: int, seed: int) -> None:
    cluster = run_rate(limit, clients, 2, seed)
    assert most_in_window([(time, 1) for time, *_ in cluster.starts]) <= limit
    assert cluster.starts


def test_starts_are_spread_over_the_minute() -> None:
    cluster = run_rate(600, 2, 3)
    assert most_in_window([(time, 1) for time, *_ in cluster.starts], seconds=1.0) <= 40


@pytest.mark.parametrize("clients", [1, 3])
def test_tokens_per_minute_count_what_was_used(clients: int) -> None:
    async def main() -> None:
        cluster = Cluster(api_keys(concurrency=100, tokens_per_minute=60_000))

        def one() -> dict[str, Any]:
            estimated = cluster.random.randint(200, 900)
            used = cluster.random.randint(100, estimated)
            return {"estimate": Estimate(rate_tokens=estimated), "tokens": used}

        tasks = [t for _ in range(clients) for t in cluster.workers(cluster.client(), 50, one)]
        await asyncio.sleep(180)
        await stop(tasks)
        used = [(time, tokens) for time, _, _, tokens in cluster.starts]
        assert most_in_window(used) <= 60_000
        late = sum(tokens for time, tokens in used if time > 60) / 2
        assert late >= 0.9 * 60_000

    simulate(main)


def test_a_request_larger_than_the_token_limit_still_starts() -> None:
    async def main() -> None:
        cluster = Cluster(api_keys(tokens_per_minute=100, requests_per_minute=60))
        client = cluster.client()
        big = Estimate(rate_tokens=5000)
        await asyncio.wait_for(cluster.request(client, big, tokens=90), 5)
        await asyncio.wait_for(cluster.request(client, big, tokens=90), 70)
        assert cluster.starts[1][0] >= 60

    simulate(main)


def test_both_rates_at_once_starve_nobody() -> None:
    async def main() -> None:
        cluster = Cluster(api_keys(requests_per_minute=12, tokens_per_minute=2400))

        def one() -> dict[str, Any]:
            return {"estimate": Estimate(rate_tokens=200), "tokens": 200}

        clients = [cluster.client() for _ in range(5)]
        tasks = [t for client in clients for t in cluster.workers(client, 3, one)]
        await asyncio.sleep(300)
        await stop(tasks)
        assert len(cluster.starts) >= 0.8 * 60
        assert len(cluster.done) == 5
        assert min(cluster.done.values()) >= 0.5 * max(cluster.done.values())

    simulate(main)


@settings(max_examples=10, deadline=None)
@given(
    total=st.integers(1, 60),
    crowd=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    seed=st.integers(0, 10**6),
)
def test_slots_are_never_given_twice_and_everybody_gets_on(
    total: int, crowd: list[int], seed: int
) -> None:
    async def main() -> None:
        cluster = Cluster(api_keys(concurrency=total), seed=seed)

        def one() -> dict[str, Any]:
            return {"seconds": cluster.random.uniform(0.05, 0.6)}

        tasks = []
        for workers in crowd:
            tasks += cluster.workers(cluster.client(), workers, one)
            await asyncio.sleep(cluster.random.uniform(0, 1))
        await asyncio.sleep(40)
        assert cluster.most_in_flight <= total
        assert len(cluster.done) == len(crowd)
        await stop(tasks)

    simulate(main)


def test_slots_are_shared_by_need() -> None:
    async def main() -> None:
        cluster = Cluster(api_keys(concurrency=90))
        small, large, other = cluster.client(), cluster.client(), cluster.client()
        tasks = [
            task
            for client, workers in ((large, 200), (small, 10), (other, 200))
            for task in cluster.workers(client, workers, lambda: {"seconds": 1.0})
        ]
        await asyncio.sleep(20)
        cluster.done.clear()
        await asyncio.sleep(30)
        done = {client: cluster.done[repr(client)] for client in (small, large, other)}
        assert done[small] >= 0.85 * 10 * 30
        assert done[large] == pytest.approx(done[other], rel=0.1)
        assert sum(done.values()) >= 0.95 * 90 * 30  # nothing lies idle
        await stop(tasks)

    simulate(main)


def test_one_slot_goes_round() -> None:
    async def main() -> None:
        cluster = Cluster(api_keys(concurrency=1))
        tasks = [
            task
            for _ in range(4)
            for task in cluster.workers(cluster.client(), 3, lambda: {"seconds": 0.2})
        ]
        await asyncio.sleep(120)
        assert cluster.most_in_flight == 1
        assert len(cluster.done) == 4
        assert min(cluster.done.values()) >= 0.5 * max(cluster.done.values())
        await stop(tasks)

    simulate(main)


@settings(max_examples=10, deadline=None)
@given(
    clients=st.integers(1, 5),
    budget=st.floats(0.0, 0.3),
    workers=st.integers(1, 30),
    lost=st.sampled_from([0.0, 0.05]),
    seed=st.integers(0, 10**6),
)
def test_the_budget_is_never_passed_and_used_to_the_end(
    clients: int, budget: float, workers: int, lost: float, seed: int
) -> None:
    async def main() -> None:
        cluster = Cluster(api_keys(concurrency=40), max_cost_usd=budget, seed=seed)
        one = spend(cluster, 0.001, lost)
        tasks = [
            task for _ in range(clients) for task in cluster.workers(cluster.client(), workers, one)
        ]
        await asyncio.wait_for(asyncio.gather(*tasks), 300)
        assert cluster.billed <= budget
        assert cluster.errors.total() == clients * workers
        assert all("max_cost_usd" in message for message in cluster.errors)
        for client in cluster.clients:
            await client.close()
        cost = cluster.server.cost
        assert cost.spent / PICODOLLARS == pytest.approx(cluster.settled_usd, abs=1e-9)
        used = cost.spent + cost.unknown
        assert budget - 0.001 < used / PICODOLLARS <= budget + 1e-9
        assert cost.committed == used  # nothing is still reserved

    simulate(main)


def test_what_was_spent_before_counts() -> None:
    async def main() -> None:
        cluster = Cluster(max_cost_usd=1.0, spent_usd=0.9995)
        tasks = cluster.workers(cluster.client(), 5, spend(cluster, 0.001))
        await asyncio.wait_for(asyncio.gather(*tasks), 30)
        assert cluster.billed <= 0.0005
        (message,) = cluster.errors
        assert message.startswith(
            "BudgetExhausted: the budget max_cost_usd of $1 is used up: $0.99"
        )

    simulate(main)


def test_the_token_budget_holds() -> None:
    async def main() -> None:
        cluster = Cluster(max_tokens=5000)
        tasks = [
            task
            for _ in range(3)
            for task in cluster.workers(cluster.client(), 10, spend(cluster, 0.001))
        ]
        await asyncio.wait_for(asyncio.gather(*tasks), 60)
        assert 4900 <= 40 * cluster.done.total() <= 5000
        assert all("max_tokens" in message for message in cluster.errors)

    simulate(main)


def test_small_requests_go_on_when_a_large_one_does_not_fit_yet() -> None:
    async def main() -> None:
        cluster = Cluster(max_cost_usd=1.0)
        client = cluster.client()
        first = {"estimate": Estimate(cost=picodollars(0.9)), "cost_usd": 0.1, "seconds": 5.0}
        second = {"estimate": Estimate(cost=picodollars(0.8)), "cost_usd": 0.1, "seconds": 1.0}
        requests = [asyncio.create_task(cluster.request(client, **first))]
        await asyncio.sleep(1)
        requests.append(asyncio.create_task(cluster.request(client, **second)))
        await asyncio.sleep(1)
        assert len(cluster.starts) == 1  # it waits for what the first one gives back
        await asyncio.gather(*requests)
        assert cluster.starts[1][0] >= 5

    simulate(main)
