"""The client: one worker process's share of the limits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import uuid
from collections.abc import Awaitable, Callable

from ray_pipeline.core.errors import BudgetExhausted, RunError
from ray_pipeline.llm.config import LlmConfig
from ray_pipeline.llm.limits.leases import LlmLimits
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
)

_log = logging.getLogger(__name__)


class LimitsClient:
    """One worker process's share of the limits. Lives on one event loop.

    Args:
        name: tells the clients of a run apart, in the server's messages; made unique here.
        call: reaches `LimitsServer.sync`, wherever it is.
    """

    def __init__(self, name: str, call: Callable[[ClientReport], Awaitable[Grants]]) -> None:
        self._call = call
        # Process numbers come again, on other machines and after restarts.
        self._name = f"{name}-{uuid.uuid4().hex[:12]}"
        self._llms: dict[str, LlmLimits] = {}
        self._sequence = 0
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._synced_at = -math.inf
        self._sync_seconds = SYNC_SECONDS
        self._hurry = False
        self._quiet = True
        #: Waits for longer than it would if a request needed the next sync.
        self._sleeps = False
        self.cost = Meter()
        self.tokens = Meter()
        self.valid_until = -math.inf
        #: Makes the error that every request gets from now on.
        self.failure: Callable[[], Exception] | None = None

    def llm(self, name: str, config: LlmConfig) -> LlmLimits:
        """The share of one model; the same object for the same name."""
        if name not in self._llms:
            self._llms[name] = LlmLimits(self, name, config)
        return self._llms[name]

    async def close(self) -> None:
        """Tell the server what was spent and hand everything back. Nothing can start after."""
        if self._task is None:
            return
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._task = None
        with contextlib.suppress(Exception):  # it is told by our silence otherwise
            async with asyncio.timeout(CALL_SECONDS):
                await self._call(self._report(releases=True))

    def __repr__(self) -> str:
        return f"LimitsClient({self._name!r}, llms={sorted(self._llms)})"

    # What requests do to it

    def need(self) -> None:
        """A request waits: see whether a sync would help it."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="limits")
            self._task.add_done_callback(self._ended)
        if self._sleeps and (self._quiet or any(llm.sync_helps() for llm in self._llms.values())):
            self._sleeps = False
            self._wake.set()

    def news(self) -> None:
        """Something that other clients should know soon: a pause, a key of no more use."""
        self._hurry = True
        self._sleeps = False
        self._wake.set()

    def freed(self, llm: LlmLimits) -> None:
        """A request has ended: who can start now?"""
        if self.cost.ceiling is None and self.tokens.ceiling is None:
            llm.pump()
        else:
            self.pump()

    def pump(self) -> None:
        """Start what can start."""
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
                # The same report again: the server knows it by its number if it had arrived.
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
        """Without syncs every request would wait for ever: a defect here must not go unseen."""
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the limits' sync failed", exc_info=error)
            reason = f"{type(error).__name__}: {error}"
            self.failure = lambda: RunError(f"the run's limits failed ({reason})")
            self.pump()

    def _fail_unreachable(self, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
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
            # Clients that were started together should not stay in step.
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
            # As much again as is in flight: until the next sync each may be followed by another.
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


class Meter:
    """Money or tokens of this client. None as ceiling: no limit (known from the first sync)."""

    __slots__ = ("ceiling", "in_use", "lost", "spent")

    def __init__(self) -> None:
        self.spent = 0
        self.lost = 0
        self.in_use = 0
        self.ceiling: int | None = 0

    def fits(self, amount: int) -> bool:
        ceiling = self.ceiling
        return ceiling is None or self.spent + self.lost + self.in_use + amount <= ceiling
