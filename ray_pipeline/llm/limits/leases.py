"""Leases: leave for one try of one request, on the key that has room."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ray_pipeline.core.errors import RunError
from ray_pipeline.llm.config import LlmConfig
from ray_pipeline.llm.limits.protocol import (
    PERMIT_SECONDS,
    Estimate,
    KeyGrant,
    KeyLimits,
    KeyReport,
    key_labels,
    key_limits,
    picodollars,
)

if TYPE_CHECKING:
    from ray_pipeline.llm.limits.client import LimitsClient


class Key:
    """One API key as this client sees it."""

    def __init__(self, label: str, limits: KeyLimits) -> None:
        self.label = label
        self.limits = limits
        self.rated = bool(limits.requests_per_minute or limits.tokens_per_minute)
        self.slots = 0
        self.in_use = 0
        self.started = 0  # since the last sync
        self.paused_until = -math.inf
        self.retired: str | None = None
        self.batch = Batch(0, 0, 0, -math.inf)
        self._unused: dict[int, tuple[int, int]] = {}
        self._pause_told = -math.inf

    def can_start(self, estimate: Estimate, now: float) -> bool:
        if self.in_use >= self.slots or self.paused_until > now or self.retired is not None:
            return False
        return not self.rated or self.batch.has(self.rate_tokens(estimate), now)

    def rate_tokens(self, estimate: Estimate) -> int:
        """Tokens to count for a request; one larger than the limit counts as the limit."""
        limit = self.limits.tokens_per_minute
        return 0 if limit is None else min(estimate.rate_tokens, limit)

    def unused(self, batch: Batch, permits: int, tokens: int) -> None:
        old = self._unused.get(batch.sequence, (0, 0))
        self._unused[batch.sequence] = (old[0] + permits, old[1] + tokens)

    def report(self, waiting: int, head: Estimate | None, now: float) -> KeyReport:
        """State, and what could be used of ``waiting`` requests; ends the count of starts."""
        room = self.slots - self.in_use if self.slots else waiting
        permits = max(0, min(waiting, room)) + self.started
        next_tokens = self.rate_tokens(head) if head else 0
        pause = self.paused_until - now if self.paused_until > self._pause_told else 0.0
        self._pause_told = max(self._pause_told, self.paused_until)
        unused, self._unused, self.started = self._unused, {}, 0
        return KeyReport(
            in_use=self.in_use,
            waiting=waiting,
            permits=permits if self.rated else 0,
            tokens=permits * next_tokens,
            next_tokens=next_tokens,
            unused=unused,
            pause_seconds=max(0.0, pause),
            retired=self.retired,
        )

    def apply(
        self, grant: KeyGrant, sequence: int, sent: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.slots = grant.slots
        self.retired = self.retired or grant.retired
        if grant.pause_seconds > 0:
            until = loop.time() + grant.pause_seconds
            self._pause_told = max(self._pause_told, until)
            self.paused_until = max(self.paused_until, until)
        if self.rated:
            left = self.batch
            if left.permits or left.tokens:
                self.unused(left, left.permits, left.tokens)
            unlimited = 1 << 62
            self.batch = Batch(
                sequence,
                unlimited if grant.permits is None else grant.permits,
                unlimited if grant.tokens is None else grant.tokens,
                sent + PERMIT_SECONDS,
            )


@dataclass(slots=True)
class Batch:
    """Permits of one grant."""

    sequence: int
    permits: int
    tokens: int
    expires: float

    def has(self, tokens: int, now: float) -> bool:
        return self.permits > 0 and self.tokens >= tokens and now < self.expires


class LlmLimits:
    """The share of one model: hands out leases on its keys, first come, first served."""

    def __init__(self, client: LimitsClient, name: str, config: LlmConfig) -> None:
        self._client = client
        self._name = name
        self._variables = key_labels(name, config)
        self.keys = [Key(label, key_limits(config)) for label in self._variables]
        self._queue: deque[tuple[Estimate, asyncio.Future[Lease]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._no_keys: str | None = None

    async def start(self, estimate: Estimate, again: bool = False) -> Lease:
        """Wait until one try of a request may start.

        Args:
            estimate: what it may use.
            again: a further try of a request; goes before those that were not tried yet.

        Raises:
            BudgetExhausted: the budget does not allow it, and nothing in flight can change that.
            RunError: no key is usable, or the limits cannot be reached.
        """
        if not self._queue or again:
            lease = self._take(estimate)
            if lease is not None:
                return lease
        future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        entry = (estimate, future)
        if again:
            self._queue.appendleft(entry)
        else:
            self._queue.append(entry)
        self._client.need()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().release()
            raise

    def _take(self, estimate: Estimate) -> Lease | None:
        """A lease if one can be had at once.

        Raises: as `start`.
        """
        client = self._client
        if client.failure is not None:
            raise client.failure()
        if self._no_keys is not None:
            raise RunError(self._no_keys)
        now = asyncio.get_running_loop().time()
        if now >= client.valid_until:
            return None
        if not (client.cost.fits(estimate.cost) and client.tokens.fits(estimate.tokens)):
            return None
        key = self._pick(estimate, now)
        if key is None:
            return None
        client.cost.in_use += estimate.cost
        client.tokens.in_use += estimate.tokens
        return Lease(client, self, key, estimate)

    def _pick(self, estimate: Estimate, now: float) -> Key | None:
        """The usable key with the most room."""
        if len(self.keys) == 1:
            return self.keys[0] if self.keys[0].can_start(estimate, now) else None
        usable = [key for key in self.keys if key.can_start(estimate, now)]
        return max(usable, key=_room, default=None)

    def pump(self) -> None:
        """Start those in line, as far as the leases go."""
        queue = self._queue
        while queue:
            if not self._stopped() and all(0 < key.slots <= key.in_use for key in self.keys):
                return  # the usual end: all slots are at work, and a sync would change nothing
            estimate, future = queue[0]
            if not future.done():
                try:
                    lease = self._take(estimate)
                except Exception as error:
                    future.set_exception(error)
                else:
                    if lease is None:
                        self._client.need()
                        return
                    future.set_result(lease)
            queue.popleft()

    def _stopped(self) -> bool:
        return self._client.failure is not None or self._no_keys is not None

    # What the client asks

    def active(self) -> bool:
        return bool(self._queue) or any(key.in_use for key in self.keys)

    def sync_helps(self) -> bool:
        """Whether something waits that the next sync might let go."""
        if not self._queue:
            return False
        now = asyncio.get_running_loop().time()
        if now >= self._client.valid_until:
            return True
        usable = [key for key in self.keys if key.paused_until <= now and key.retired is None]
        # All slots at work: the next start needs no sync. A free one: it lacks something else.
        return any(key.slots == 0 or key.in_use < key.slots for key in usable)

    def head(self) -> Estimate | None:
        """What the next request in line needs."""
        return next((estimate for estimate, future in self._queue if not future.done()), None)

    def startable(self) -> Iterator[Estimate]:
        """The requests in line that could start soon, as far as the slots go."""
        number = max(32, sum(key.slots for key in self.keys))
        for _, (estimate, _future) in zip(range(number), self._queue, strict=False):
            yield estimate

    def reports(self) -> Iterator[tuple[Key, KeyReport]]:
        now = asyncio.get_running_loop().time()
        usable = [key for key in self.keys if key.paused_until <= now and key.retired is None]
        part = math.ceil(len(self._queue) / max(1, len(usable)))
        head = self.head()
        for key in self.keys:
            yield key, key.report(part if key in usable else 0, head, now)

    def check_keys(self) -> None:
        """Give up when no key is left; see that the end of a pause is not slept through."""
        if all(key.retired is not None for key in self.keys):
            reasons = (f"{self._variables[k.label] or 'no key'}: {k.retired}" for k in self.keys)
            self._no_keys = f"llms.{self._name}: no usable API key is left ({'; '.join(reasons)})"
            return
        loop = asyncio.get_running_loop()
        ends = [key.paused_until for key in self.keys if key.paused_until > loop.time()]
        if ends and (self._timer is None or self._timer.when() != min(ends)):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_at(min(ends), self._pause_over)

    def _pause_over(self) -> None:
        self._timer = None
        self.check_keys()
        self.pump()


def _room(key: Key) -> tuple[int, int]:
    return key.slots - key.in_use, key.batch.permits


class Lease:
    """Leave for one try of a request. It ends once: `settle`, `release` or `lose`."""

    __slots__ = ("_batch", "_client", "_estimate", "_key", "_llm", "_open")

    def __init__(self, client: LimitsClient, llm: LlmLimits, key: Key, estimate: Estimate) -> None:
        self._client = client
        self._llm = llm
        self._key = key
        self._estimate = estimate
        self._open = True
        self._batch = key.batch
        key.in_use += 1
        if key.rated:
            key.started += 1
            key.batch.permits -= 1
            key.batch.tokens -= key.rate_tokens(estimate)

    @property
    def key_label(self) -> str:
        """Label of the key to use."""
        return self._key.label

    def settle(self, tokens: int, cost_usd: float) -> None:
        """The reply has come: it took so many tokens, prompt and completion, and dollars."""
        self._client.cost.spent += picodollars(cost_usd)
        self._client.tokens.spent += tokens
        if self._key.limits.tokens_per_minute is not None:
            estimated = self._key.rate_tokens(self._estimate)
            self._key.unused(self._batch, 0, estimated - tokens)
        self._end()

    def release(self) -> None:
        """The try has ended without costing anything."""
        self._end()

    def lose(self) -> None:
        """No reply came, and the request may have been billed: count it at its worst case."""
        self._client.cost.lost += self._estimate.cost
        self._client.tokens.lost += self._estimate.tokens
        self._end()

    def pause(self, seconds: float) -> None:
        """The server asked to be left alone: nobody uses this key for so long."""
        until = asyncio.get_running_loop().time() + seconds
        if until > self._key.paused_until:
            self._key.paused_until = until
            self._llm.check_keys()
            self._client.news()

    def retire(self, reason: str) -> None:
        """The key is of no more use in this run, for anybody."""
        self._key.retired = reason
        self._llm.check_keys()
        self._client.news()

    def _end(self) -> None:
        if not self._open:
            raise ValueError("a lease ends once")
        self._open = False
        self._client.cost.in_use -= self._estimate.cost
        self._client.tokens.in_use -= self._estimate.tokens
        self._key.in_use -= 1
        self._client.freed(self._llm)
