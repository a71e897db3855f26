"""Leases: permission for one try of one request, on the API key that has room."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Protocol

from ray_pipeline.llm.limits.protocol import (
    PERMIT_SECONDS,
    Estimate,
    KeyGrant,
    KeyLimits,
    KeyReport,
    picodollars,
)


class Key:
    """This client's state of one API key."""

    def __init__(self, label: str, limits: KeyLimits) -> None:
        self.label = label
        self.limits = limits
        self.rated = bool(limits.requests_per_minute or limits.tokens_per_minute)
        self.slots = 0
        self.in_use = 0
        self.started = 0  # since the last sync
        self.paused_until = -math.inf
        self.paused_since = -math.inf
        self.pause_reason = ""
        #: When each lease was taken, the oldest first.
        self.taken: dict[int, float] = {}
        self.tries = 0
        self.retired: str | None = None
        self.batch = Batch(0, 0, 0, -math.inf)
        self._unused: dict[int, tuple[int, int]] = {}
        self._pause_reported = -math.inf

    def can_start(self, estimate: Estimate, now: float) -> bool:
        """Whether a request of this size may start now."""
        if self.in_use >= self.slots or self.paused_until > now or self.retired is not None:
            return False
        return not self.rated or self.batch.has(self.rate_tokens(estimate), now)

    def pause(self, until: float, now: float, reason: str) -> bool:
        """Pause the key; returns whether that is longer than it was paused already."""
        if until <= self.paused_until:
            return False
        if self.paused_until <= now:
            self.paused_since = now
        self.paused_until, self.pause_reason = until, reason
        return True

    def rate_tokens(self, estimate: Estimate) -> int:
        """Tokens to count for a request; one larger than the limit counts as the limit."""
        limit = self.limits.tokens_per_minute
        return 0 if limit is None else min(estimate.rate_tokens, limit)

    def return_unused(self, batch: Batch, permits: int, tokens: int) -> None:
        """Return unused permits and tokens of a grant with the next report."""
        old = self._unused.get(batch.sequence, (0, 0))
        self._unused[batch.sequence] = (old[0] + permits, old[1] + tokens)

    def report(self, waiting: int, head: Estimate | None, now: float) -> KeyReport:
        """State, and what could be used of ``waiting`` requests; ends the count of starts."""
        room = self.slots - self.in_use if self.slots else waiting
        permits = max(0, min(waiting, room)) + self.started
        next_tokens = self.rate_tokens(head) if head else 0
        pause = self.paused_until - now if self.paused_until > self._pause_reported else 0.0
        self._pause_reported = max(self._pause_reported, self.paused_until)
        unused, self._unused, self.started = self._unused, {}, 0
        return KeyReport(
            in_use=self.in_use,
            waiting=waiting,
            permits=permits if self.rated else 0,
            tokens=permits * next_tokens,
            next_tokens=next_tokens,
            unused=unused,
            pause_seconds=max(0.0, pause),
            pause_reason=self.pause_reason if pause > 0 else "",
            oldest_seconds=now - next(iter(self.taken.values()), now),
            tries=self.tries,
            retired=self.retired,
        )

    def apply(
        self, grant: KeyGrant, sequence: int, sent: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        """Apply a grant, the reply to the report ``sequence`` that was sent at time ``sent``."""
        self.slots = grant.slots
        self.retired = self.retired or grant.retired
        if grant.pause_seconds > 0:
            until = loop.time() + grant.pause_seconds
            self._pause_reported = max(self._pause_reported, until)
            self.pause(until, loop.time(), grant.pause_reason)
        if self.rated:
            left = self.batch
            if left.permits or left.tokens:
                self.return_unused(left, left.permits, left.tokens)
            unlimited = 1 << 62
            self.batch = Batch(
                sequence,
                unlimited if grant.permits is None else grant.permits,
                unlimited if grant.tokens is None else grant.tokens,
                sent + PERMIT_SECONDS,
            )


@dataclass(slots=True)
class Batch:
    """The remaining permits of one grant."""

    sequence: int
    permits: int
    tokens: int
    expires: float

    def has(self, tokens: int, now: float) -> bool:
        """Whether a request of ``tokens`` may use a permit of this grant."""
        return self.permits > 0 and self.tokens >= tokens and now < self.expires


class Meter:
    """Money (picodollars) or tokens of one client. ``ceiling`` None: no limit."""

    __slots__ = ("ceiling", "in_use", "lost", "spent")

    def __init__(self) -> None:
        self.spent = 0
        self.lost = 0
        self.in_use = 0
        self.ceiling: int | None = 0  # nothing is granted before the first sync

    def fits(self, amount: int) -> bool:
        """Whether the amount can be reserved on top of what is used."""
        ceiling = self.ceiling
        return ceiling is None or self.spent + self.lost + self.in_use + amount <= ceiling


class Owner(Protocol):
    """Receives the events of leases: the limits of one model."""

    cost: Meter
    tokens: Meter

    def lease_ended(self) -> None:
        """A slot is free."""
        ...

    def key_changed(self) -> None:
        """A key is paused or retired, which other clients should know soon."""
        ...


class Lease:
    """Permission for one try of a request; ended by one of `settle`, `release` and `lose`.

    A context manager: at its end a lease that is still open counts as lost, whatever was raised,
    so that no slot stays in use without a request.
    """

    __slots__ = ("_batch", "_estimate", "_key", "_open", "_owner", "lost")

    def __init__(self, owner: Owner, key: Key, estimate: Estimate) -> None:
        self._owner = owner
        self._key = key
        self._estimate = estimate
        self._open = True
        self._batch = key.batch
        #: What the try may have cost without an answer, with an additional call in its slot.
        self.lost = Estimate()
        key.tries += 1
        key.taken[id(self)] = asyncio.get_running_loop().time()
        owner.cost.in_use += estimate.cost
        owner.tokens.in_use += estimate.tokens
        key.in_use += 1
        if key.rated:
            key.started += 1
            key.batch.permits -= 1
            key.batch.tokens -= key.rate_tokens(estimate)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        if self._open:
            self.lose()

    @property
    def key_label(self) -> str:
        """Label of the key to use."""
        return self._key.label

    @property
    def key_in_use(self) -> int:
        """Number of this process's requests in flight on the key."""
        return self._key.in_use

    def spend(self, tokens: int, cost_usd: float) -> None:
        """Count what an additional call in the same slot used; the lease stays open."""
        self._spend(tokens, picodollars(cost_usd))
        self._count_lost(Estimate(picodollars(cost_usd), tokens))

    def settle(self, tokens: int, cost_usd: float) -> None:
        """The reply has arrived: count what it used.

        Args:
            tokens: tokens of prompt and completion.
            cost_usd: cost in US dollars.
        """
        self._spend(tokens, picodollars(cost_usd))
        if self._key.limits.tokens_per_minute is not None:
            estimated = self._key.rate_tokens(self._estimate)
            self._key.return_unused(self._batch, 0, estimated - tokens)
        self._end()

    def release(self) -> None:
        """The try has ended without costing anything."""
        self._end()

    def lose(self) -> None:
        """No reply came, and the request may have been billed: count it at its worst case."""
        self._owner.cost.lost += self._estimate.cost
        self._owner.tokens.lost += self._estimate.tokens
        self._count_lost(self._estimate)
        self._end()

    def pause(self, seconds: float, reason: str = "") -> None:
        """The server asked for a pause: no client uses this key for ``seconds``.

        Args:
            seconds: how long.
            reason: the server's words.
        """
        now = asyncio.get_running_loop().time()
        if self._key.pause(now + seconds, now, reason):
            self._owner.key_changed()

    def retire(self, reason: str) -> None:
        """No client uses this key again in this run."""
        self._key.retired = reason
        self._owner.key_changed()

    def _spend(self, tokens: int, cost: int) -> None:
        self._owner.cost.spent += cost
        self._owner.tokens.spent += tokens

    def _count_lost(self, more: Estimate) -> None:
        self.lost = Estimate(self.lost.cost + more.cost, self.lost.tokens + more.tokens)

    def _end(self) -> None:
        if not self._open:
            raise ValueError("a lease ends once")
        self._open = False
        self._owner.cost.in_use -= self._estimate.cost
        self._owner.tokens.in_use -= self._estimate.tokens
        self._key.in_use -= 1
        self._key.taken.pop(id(self), None)
        self._owner.lease_ended()
