"""Tells a request that a server refuses from an API key or an address that it refuses.

A 403 or a 404 may be about one request (moderation, a firewall's rule that its text meets) or about
all of them (a key without permission, a wrong address). The requests beside it decide. Where there
is none whose answer could, a test request of a few tokens does.

Each worker process has its own knowledge; what it finds out about a key, it tells all others
through the limits.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from ray_pipeline.llm.limits.leases import Lease

#: Seconds that a refused request waits for the answer to another one, before the test request.
PATIENCE_SECONDS = 5.0
#: Seconds between two looks at the requests in flight.
_LOOK_SECONDS = 0.05
#: After this number of different requests were refused without an answer in between, a key that
#: has worked is in doubt again.
SUSPICIOUS = 5
#: Seconds before another test request, where the last one showed nothing.
_UNCLEAR_SECONDS = 60.0

#: What a test request shows: the server accepts it, refuses it, or neither came out.
Probe = Literal["accepted", "refused", "unclear"]


@dataclass
class _Key:
    """What this process has seen of one API key."""

    has_worked: bool = False
    #: Requests that were refused since the last answer.
    refused: set[str] = field(default_factory=set)
    #: The number of these that puts the key in doubt; grows where the requests are to blame.
    suspicious: int = SUSPICIOUS
    #: Refused requests that wait to learn why, each in its slot.
    waiting: int = 0
    testing: asyncio.Lock = field(default_factory=asyncio.Lock)
    probe: Probe = "unclear"
    probed_at: float = -math.inf


class Refusals:
    """What this process knows of a server's refusals, by API key.

    Args:
        probe: sends a test request in the slot of a lease, without ending it.
    """

    def __init__(self, probe: Callable[[Lease], Awaitable[Probe]]) -> None:
        self._probe = probe
        self._keys: dict[str, _Key] = {}

    def accepted(self, label: str) -> None:
        """The server has accepted a request with this key."""
        key = self._keys.setdefault(label, _Key())
        key.has_worked = True
        key.refused.clear()

    async def is_request_to_blame(self, lease: Lease, request: str) -> bool:
        """Whether a refusal is about this request alone, and not about every one.

        The lease stays open meanwhile, so that no further request is sent in its slot to a server
        that may refuse them all.

        Args:
            lease: of the refused try.
            request: the request's key.
        """
        key = self._keys.setdefault(lease.key_label, _Key())
        refused_at = asyncio.get_running_loop().time()
        key.refused.add(request)
        if key.has_worked and len(key.refused) < key.suspicious:
            return True
        key.waiting += 1
        try:
            if not key.has_worked:
                await self._wait_for_neighbours(key, lease)
            if request not in key.refused:  # another one was accepted meanwhile
                return True
            async with key.testing:
                if not _is_settled(key, refused_at):
                    await self._test(key, lease)
        finally:
            key.waiting -= 1
        if key.probe == "unclear":
            return len(key.refused) < SUSPICIOUS
        return key.probe == "accepted"

    async def _wait_for_neighbours(self, key: _Key, lease: Lease) -> None:
        """Wait while other requests are in flight on this key whose answers may tell."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while not key.has_worked and key.waiting < lease.key_in_use:
            if asyncio.get_running_loop().time() > deadline:
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def _test(self, key: _Key, lease: Lease) -> None:
        key.probe = await self._probe(lease)
        key.probed_at = asyncio.get_running_loop().time()
        if key.probe == "accepted":
            self.accepted(lease.key_label)
            key.suspicious *= 4


def _is_settled(key: _Key, refused_at: float) -> bool:
    """Whether the last test request tells about a refusal at this time."""
    if key.probe == "unclear":
        return asyncio.get_running_loop().time() < key.probed_at + _UNCLEAR_SECONDS
    return key.probed_at >= refused_at
