"""The client: one worker process's share of the limits, and the queue of each model."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping

from ray_pipeline.core.errors import BudgetExhausted, RunError, Stopping, cause_in_words
from ray_pipeline.llm.limits.leases import Key, Lease, Meter
from ray_pipeline.llm.limits.protocol import (
    CALL_SECONDS,
    HEARTBEAT_SECONDS,
    IDLE_SECONDS,
    LEASE_SECONDS,
    SYNC_SECONDS,
    UNREACHABLE_SECONDS,
    BudgetReport,
    ClientReport,
    Estimate,
    Grants,
    KeyLimits,
    KeyReport,
)

_log = logging.getLogger(__name__)


def _nothing() -> None:
    pass


class LimitsClient:
    """One worker process's share of the limits, used from one event loop.

    Args:
        name: identifies the client in the server's messages; a unique suffix is added.
        call: calls `LimitsServer.sync`, which may be in another process.
    """

    def __init__(self, name: str, call: Callable[[ClientReport], Awaitable[Grants]]) -> None:
        self._call = call
        # Process ids repeat on other machines and after restarts.
        self._name = f"{name}-{uuid.uuid4().hex[:12]}"
        self._llms: dict[str, LlmLimits] = {}
        self._sequence = 0
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._synced_at = -math.inf
        self._sync_seconds = SYNC_SECONDS
        self._hurry = False
        self._quiet = True
        #: Sleeps for longer than it would if a request needed the next sync.
        self._sleeps = False
        self.cost = Meter()
        self.tokens = Meter()
        self.valid_until = -math.inf
        #: Creates the error that every request raises from now on.
        self.failure: Callable[[], Exception] | None = None
        #: Called before each request; raises where it must not be sent.
        self.before_sending: Callable[[], None] = _nothing

    def llm(
        self, name: str, keys: Mapping[str, KeyLimits], patience_seconds: float = math.inf
    ) -> LlmLimits:
        """The share of one model; the same object for the same name.

        Args:
            name: the model's name under ``llms``.
            keys: limits of its API keys, by label.
            patience_seconds: requests fail once all keys have been paused for this long.
        """
        if name not in self._llms:
            self._llms[name] = LlmLimits(self, name, keys, patience_seconds)
        return self._llms[name]

    async def close(self) -> None:
        """Report what was spent and return all permits; no request can start afterwards."""
        if self._task is None:
            return
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._task = None
        with contextlib.suppress(Exception):  # otherwise the server drops this client after a while
            async with asyncio.timeout(CALL_SECONDS):
                await self._call(self._report(releases=True))

    def __repr__(self) -> str:
        return f"LimitsClient({self._name!r}, llms={sorted(self._llms)})"

    # Called by requests

    def need(self) -> None:
        """A request is waiting: sync if that may let it start."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="limits")
            self._task.add_done_callback(self._ended)
        if self._sleeps and (self._quiet or any(llm.sync_helps() for llm in self._llms.values())):
            self._sleeps = False
            self._wake.set()

    def sync_soon(self) -> None:
        """Sync soon, so that other clients learn that a key is paused or retired."""
        self._hurry = True
        self._sleeps = False
        self._wake.set()

    def freed(self, llm: LlmLimits) -> None:
        """A request has ended: start the requests that can start now."""
        if self.cost.ceiling is None and self.tokens.ceiling is None:
            llm.pump()
        else:
            self.pump()

    def pump(self) -> None:
        """Start all waiting requests that can start."""
        for llm in self._llms.values():
            llm.pump()

    # The sync

    async def _run(self) -> None:
        unreached_since: float | None = None
        report: ClientReport | None = None
        loop = asyncio.get_running_loop()
        while True:
            if report is None:
                await self._due()
                report = self._report(releases=not self._active())
            sent = loop.time()
            try:
                async with asyncio.timeout(CALL_SECONDS):
                    grants = await self._call(report)
            except Exception as error:
                # Send the same report again: the server recognises it by its number.
                unreached_since = unreached_since or sent
                if loop.time() - unreached_since > UNREACHABLE_SECONDS:
                    self._fail_unreachable(error)
                    return
                await asyncio.sleep(0.5)
                continue
            unreached_since = None
            self._apply(report, grants, sent)
            report = None
            self.pump()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Without syncs every request would wait for ever: make a defect here visible."""
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the limits' sync failed", exc_info=error)
            reason = f"{type(error).__name__}: {error}"
            self.failure = lambda: RunError(f"the run's limits failed ({reason})")
            self.pump()

    def _fail_unreachable(self, error: Exception) -> None:
        reason = cause_in_words(error)
        self.failure = lambda: RunError(
            f"the run's limits could not be reached for {UNREACHABLE_SECONDS:.0f} s ({reason}); "
            "no request may start without them"
        )
        self.pump()

    async def _due(self) -> None:
        """Wait until the next sync is worth its call."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            self._sleeps = True
            if (delay := self._next_sync() - loop.time()) <= 0:
                self._sleeps = False
                return
            # Not `wait_for`: in Python 3.11 it can swallow a cancellation that meets a wake-up.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if delay == math.inf else delay):
                    await self._wake.wait()

    def _next_sync(self) -> float:
        if self._hurry or (self._quiet and self._active()):
            self._sleeps = False
            return self._synced_at + SYNC_SECONDS / 4
        if any(llm.sync_helps() for llm in self._llms.values()):
            self._sleeps = False
            # Clients that were started together should not sync at the same moments.
            return self._synced_at + self._sync_seconds * random.uniform(0.8, 1.2)
        if self._active():
            return self._synced_at + max(HEARTBEAT_SECONDS, self._sync_seconds)
        return math.inf if self._quiet else self._synced_at + IDLE_SECONDS

    def _active(self) -> bool:
        return any(llm.active() for llm in self._llms.values())

    def _report(self, releases: bool) -> ClientReport:
        self._sequence += 1
        self._hurry = False
        self._quiet = releases
        if releases:
            self._drop_leases()
        llms = self._llms.values()
        return ClientReport(
            client=self._name,
            sequence=self._sequence,
            keys={key.label: report for llm in llms for key, report in llm.reports()},
            cost=self._budget_report(self.cost, lambda e: e.cost),
            tokens=self._budget_report(self.tokens, lambda e: e.tokens),
            releases=releases,
            queued={llm.name: number for llm in llms if (number := llm.queued())},
        )

    def _drop_leases(self) -> None:
        self.valid_until = -math.inf
        for llm in self._llms.values():
            for key in llm.keys:
                key.slots = 0

    def _budget_report(self, meter: Meter, amount: Callable[[Estimate], int]) -> BudgetReport:
        heads = [amount(head) for llm in self._llms.values() if (head := llm.head())]
        waiting = sum(
            amount(estimate) for llm in self._llms.values() for estimate in llm.startable()
        )
        return BudgetReport(
            spent=meter.spent,
            lost=meter.lost,
            in_use=meter.in_use,
            # Double what is in flight: each request may be followed by another until the next sync.
            wanted=max(waiting, meter.in_use),
            next=min(heads, default=0),
        )

    def _apply(self, report: ClientReport, grants: Grants, sent: float) -> None:
        loop = asyncio.get_running_loop()
        self._synced_at = loop.time()
        self._sync_seconds = grants.sync_seconds
        self._hurry = self._hurry or grants.hurry
        self.cost.ceiling, self.tokens.ceiling = grants.cost_ceiling, grants.tokens_ceiling
        if not report.releases:
            self.valid_until = sent + LEASE_SECONDS
        for llm in self._llms.values():
            for key in llm.keys:
                if grant := grants.keys.get(key.label):
                    key.apply(grant, grants.sequence, sent, loop)
            llm.check_keys()
        if grants.exhausted:
            message = grants.exhausted
            self.failure = lambda: BudgetExhausted(message)
        if grants.stopping:
            self.failure = self.failure or Stopping


class LlmLimits:
    """One process's share of one model: hands out leases on its keys, first come, first served.

    Args:
        client: the process's share of all limits.
        name: the model's name under ``llms``.
        keys: limits of its API keys, by label.
        patience_seconds: requests fail once all keys have been paused for this long.
    """

    def __init__(
        self,
        client: LimitsClient,
        name: str,
        keys: Mapping[str, KeyLimits],
        patience_seconds: float = math.inf,
    ) -> None:
        self._client = client
        self.name = name
        self._patience = patience_seconds
        self.cost, self.tokens = client.cost, client.tokens
        self.keys = [Key(label, limits) for label, limits in keys.items()]
        self._queue: deque[tuple[Estimate, asyncio.Future[Lease]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._waiting_since = -math.inf
        self._no_keys: str | None = None

    async def start(self, estimate: Estimate, again: bool = False) -> Lease:
        """Wait until one try of a request may start.

        Args:
            estimate: the most that the try may use.
            again: whether this is a retry, which goes before requests not tried yet.

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
        is_first = not self._queue
        if again:
            self._queue.appendleft(entry)
        else:
            self._queue.append(entry)
        if is_first:
            self._waiting_since = asyncio.get_running_loop().time()
            self.check_keys()  # for the timer of a pause
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
        if not (self.cost.fits(estimate.cost) and self.tokens.fits(estimate.tokens)):
            return None
        key = self._pick(estimate, now)
        if key is None:
            return None
        client.before_sending()
        return Lease(self, key, estimate)

    def _pick(self, estimate: Estimate, now: float) -> Key | None:
        """The usable key with the most room."""
        if len(self.keys) == 1:
            return self.keys[0] if self.keys[0].can_start(estimate, now) else None
        usable = [key for key in self.keys if key.can_start(estimate, now)]
        return max(usable, key=_room, default=None)

    def pump(self) -> None:
        """Start waiting requests, as far as the leases go."""
        queue = self._queue
        while queue:
            if not self._stopped() and all(0 < key.slots <= key.in_use for key in self.keys):
                return  # the usual end: all slots are in use, and a sync would change nothing
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

    def check_patience(self, since: float = math.inf) -> str | None:
        """Fail all requests if they have waited for paused keys for longer than the patience.

        Args:
            since: when the caller's request began to be tried; its wait counts, too.

        Returns: why all requests fail from now on; None: they do not.
        """
        now = asyncio.get_running_loop().time()
        usable = [key for key in self.keys if key.retired is None]
        if (end := self._patience_end(now, since)) is None or now < end - 1e-6:
            return self._no_keys
        first = min(usable, key=lambda key: key.paused_until)
        left = first.paused_until - now
        ends = time.localtime(time.time() + left)
        names = ", ".join(key.label.removeprefix(f"{self.name}/") for key in usable)
        self._no_keys = (
            f"llms.{self.name}: the server asks to wait until "
            f"{time.strftime('%Y-%m-%d %H:%M:%S', ends)} ({names}): "
            f"{first.pause_reason or 'it gives no reason'}. Requests wait for at most "
            f"give_up_after_seconds, {self._patience:g} s, so the run stops here; no row has "
            "failed for it. Run the same command again then, add an API key, or set "
            f"llms.{self.name}.give_up_after_seconds to {math.ceil(left + 60)} or more to wait"
        )
        self.pump()
        return self._no_keys

    def _patience_end(self, now: float, since: float = math.inf) -> float | None:
        """When requests have waited for too long for paused keys; None: nothing waits for them.

        Args:
            now: current time.
            since: when a request began to be tried that is not in the queue.
        """
        usable = [key for key in self.keys if key.retired is None]
        if not usable or any(key.paused_until <= now for key in usable):
            return None
        if self._queue:
            paused_since = max(key.paused_since for key in usable)
            since = min(since, max(self._waiting_since, paused_since))
        return None if since == math.inf else since + self._patience

    # For its leases

    def lease_ended(self) -> None:
        """A slot is free: start the next request that waits."""
        self._client.freed(self)

    def key_changed(self) -> None:
        """A key is paused or retired."""
        self.check_keys()
        self._client.sync_soon()

    # For the client

    def active(self) -> bool:
        """Whether a request waits or is in flight."""
        return bool(self._queue) or any(key.in_use for key in self.keys)

    def sync_helps(self) -> bool:
        """Whether a request waits that could start after the next sync."""
        if not self._queue:
            return False
        now = asyncio.get_running_loop().time()
        if now >= self._client.valid_until:
            return True
        usable = [key for key in self.keys if key.paused_until <= now and key.retired is None]
        # All slots in use: the next start needs no sync. With a free slot, something else is short.
        return any(key.slots == 0 or key.in_use < key.slots for key in usable)

    def queued(self) -> int:
        """Number of requests that wait."""
        return len(self._queue)

    def head(self) -> Estimate | None:
        """The estimate of the first waiting request."""
        return next((estimate for estimate, future in self._queue if not future.done()), None)

    def startable(self) -> Iterator[Estimate]:
        """The waiting requests that could start soon, as far as the slots go."""
        number = max(32, sum(key.slots for key in self.keys))
        for _, (estimate, _future) in zip(range(number), self._queue, strict=False):
            yield estimate

    def reports(self) -> Iterator[tuple[Key, KeyReport]]:
        """Each key with its report for the next sync."""
        now = asyncio.get_running_loop().time()
        usable = [key for key in self.keys if key.paused_until <= now and key.retired is None]
        part = math.ceil(len(self._queue) / max(1, len(usable)))
        head = self.head()
        for key in self.keys:
            yield key, key.report(part if key in usable else 0, head, now)

    def check_keys(self) -> None:
        """Fail all requests if no key is usable; wake up at the end of a pause."""
        if all(key.retired is not None for key in self.keys):
            reasons = (f"{k.label.removeprefix(f'{self.name}/')}: {k.retired}" for k in self.keys)
            self._no_keys = f"llms.{self.name}: no usable API key is left ({'; '.join(reasons)})"
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        ends = [key.paused_until for key in self.keys if key.paused_until > now]
        if (end := self._patience_end(now)) is not None and now < end < math.inf:
            ends.append(end)
        if ends and (self._timer is None or self._timer.when() != min(ends)):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_at(min(ends), self._pause_over)

    def _pause_over(self) -> None:
        self._timer = None
        self.check_patience()
        self.check_keys()
        self.pump()


def _room(key: Key) -> tuple[int, int]:
    return key.slots - key.in_use, key.batch.permits
