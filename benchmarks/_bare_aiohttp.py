"""The yardstick: precomputed request bodies sent by nothing but aiohttp."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence

import aiohttp


async def bare_aiohttp(url: str, bodies: Sequence[bytes], concurrency: int) -> float:
    """Send all bodies with ``concurrency`` in flight, read the replies, and do nothing else.

    Returns:
        Wall seconds from the first request to the last reply.

    Raises:
        RuntimeError: a reply was not 200.
    """
    headers = {"Content-Type": "application/json", "Authorization": "Bearer none"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        started = time.perf_counter()
        queue = iter(bodies)
        await asyncio.gather(*(_worker(session, url, queue) for _ in range(concurrency)))
        return time.perf_counter() - started


async def _worker(session: aiohttp.ClientSession, url: str, queue: Iterator[bytes]) -> None:
    for body in queue:
        async with session.post(url, data=body) as reply:
            await reply.read()
            if reply.status != 200:
                raise RuntimeError(f"status {reply.status}")


def measure(url: str, bodies: Sequence[bytes], concurrency: int) -> float:
    """`bare_aiohttp` on an event loop of its own."""
    return asyncio.run(bare_aiohttp(url, bodies, concurrency))
