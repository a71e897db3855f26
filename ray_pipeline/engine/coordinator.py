"""The coordinator: the single actor that all workers of a run communicate with.

It counts attempts at units, grants rate limits and budget, starts the pools of local models on
their first request, collects receipts for the progress display, and distributes the order to stop.
It needs no state of its own after a restart: finished work is on storage, and what was spent is
read from the journals.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, cast

import ray

from ray_pipeline.core.storage import Storage
from ray_pipeline.engine.unit import Receipt
from ray_pipeline.engine.worker_processes import WorkerProcess
from ray_pipeline.llm.config import Budget, LlmConfig
from ray_pipeline.llm.engines.base import key_limits
from ray_pipeline.llm.engines.pool import start_pool
from ray_pipeline.llm.limits.protocol import ClientReport, Grants, KeyUse
from ray_pipeline.llm.limits.server import LimitsServer
from ray_pipeline.rundir.account import LlmUsage
from ray_pipeline.rundir.responses import Unwritten, spent

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

#: Seconds after which a worker's last report is ignored; workers report every second.
_REPORT_EXPIRES_AFTER = 5.0

StopKind = Literal["failed", "budget_exhausted", "interrupted"]


@dataclass(frozen=True)
class Stop:
    """The order to stop the run, with its reason."""

    kind: StopKind
    message: str


@dataclass(frozen=True)
class UnitInWork:
    """A unit that a worker has begun and not committed, or a model that it loads before."""

    segment: int
    #: Empty while the worker loads its model.
    unit_id: str
    process: WorkerProcess
    #: Since the worker began.
    seconds: float
    #: Whether its rows are run apart from each other, to find one that stops the unit.
    is_isolated: bool = False


@dataclass
class Snapshot:
    """What happened since the driver's last poll."""

    #: Receipts by segment index.
    receipts: dict[int, list[Receipt]] = field(default_factory=dict)
    #: By segment index, all recorded requests of units that are being worked on, by unit id.
    in_progress: dict[int, dict[str, LlmUsage]] = field(default_factory=dict)
    #: Rows that wait for an answer, by segment index.
    rows_waiting: Counter[int] = field(default_factory=Counter)
    #: Answers that could not be stored since the last poll.
    unwritten: Unwritten = field(default_factory=Unwritten)
    #: Local models that are starting now.
    starting: list[str] = field(default_factory=list)
    #: What the requests of the run do with each API key, or wait for.
    keys: list[KeyUse] = field(default_factory=list)
    #: Units that workers have begun; those of a worker that has died stay until another begins.
    in_work: list[UnitInWork] = field(default_factory=list)
    stop: Stop | None = None


@dataclass(frozen=True)
class Begun:
    """The coordinator's reply to a worker that begins a unit."""

    #: Number of the attempt at the unit, from 1.
    attempt: int
    #: Stop instead.
    stop: bool
    #: A worker did not get done with it: run its rows one at a time.
    is_taken_apart: bool


class Coordinator:
    """See the module's description. Runs as a Ray actor, see `start_coordinator`."""

    def __init__(
        self,
        storage: Storage,
        budget: Budget,
        llms: Mapping[str, LlmConfig],
        models: Mapping[str, str],
    ) -> None:
        limited = budget.max_cost_usd is not None or budget.max_tokens is not None
        cost, tokens = spent(storage) if limited else (0.0, 0)
        self._limits = LimitsServer(
            key_limits(llms),
            max_cost_usd=budget.max_cost_usd,
            max_tokens=budget.max_tokens,
            spent_usd=cost,
            spent_tokens=tokens,
        )
        self._llms = llms
        self._models = models
        self._attempts: Counter[tuple[int, str]] = Counter()
        self._taken_apart: set[tuple[int, str]] = set()
        self._pools: dict[str, asyncio.Future[list[Any]]] = {}
        self._snapshot = Snapshot()
        self._in_work: dict[tuple[int, str], tuple[float, WorkerProcess]] = {}
        self._isolated: set[tuple[int, str]] = set()
        self._rows: dict[tuple[str, int], tuple[float, int]] = {}
        self._stop: Stop | None = None

    async def begin(self, segment: int, unit_id: str, process: WorkerProcess) -> Begun:
        """Count an attempt at a unit. Returns how to run it."""
        self._attempts[segment, unit_id] += 1
        key = (segment, unit_id)
        self._in_work[key] = time.monotonic(), process
        self._isolated.discard(key)
        return Begun(self._attempts[key], self._stop is not None, key in self._taken_apart)

    async def take_apart(self, segment: int, unit_id: str) -> None:
        """Have the rows of a unit run one at a time from its next attempt on."""
        self._taken_apart.add((segment, unit_id))

    async def moved(self, segment: int, unit_id: str, process: WorkerProcess) -> None:
        """Record that a process of its own works on a unit, for the worker that began it."""
        self._in_work[segment, unit_id] = time.monotonic(), process
        self._isolated.add((segment, unit_id))

    async def loads(self, segment: int, process: WorkerProcess, is_done: bool) -> None:
        """Record that a worker loads its model, or that it has done so."""
        key = (segment, f"loading {process}")
        self._in_work[key] = time.monotonic(), process
        if is_done:
            del self._in_work[key]

    async def finished(self, segment: int, receipt: Receipt) -> None:
        """Record that a unit is committed."""
        self._attempts.pop((segment, receipt.unit_id), None)
        self._in_work.pop((segment, receipt.unit_id), None)
        self._snapshot.receipts.setdefault(segment, []).append(receipt)

    async def progress(
        self,
        segment: int,
        counts: dict[str, LlmUsage],
        unwritten: Unwritten | None = None,
        waiting: tuple[str, int] | None = None,
    ) -> bool:
        """Take a worker's report on its work in progress. Returns whether to stop.

        Args:
            segment: index of the segment.
            counts: all recorded requests of the units that it works on, by unit id.
            unwritten: answers that it has given up storing.
            waiting: name of the worker, and the number of its rows that wait for an answer.
        """
        if waiting is not None:
            worker, rows = waiting
            self._rows[worker, segment] = time.monotonic(), rows
        self._snapshot.in_progress.setdefault(segment, {}).update(counts)
        if unwritten is not None:
            self._snapshot.unwritten += unwritten
        return self._stop is not None

    async def stop(self, kind: StopKind, message: str) -> None:
        """Order every worker to stop. A later order does not replace the reason of the first."""
        self._stop = self._stop or Stop(kind, message)

    async def poll(self) -> Snapshot:
        """What happened since the last call, for the driver."""
        news, self._snapshot = self._snapshot, Snapshot()
        now = time.monotonic()
        news.starting = [name for name, pool in self._pools.items() if not pool.done()]
        for (_, segment), (reported, rows) in self._rows.items():
            # A worker that has died leaves its last report behind.
            if now - reported <= _REPORT_EXPIRES_AFTER:
                news.rows_waiting[segment] += rows
        news.keys = self._limits.uses()
        news.in_work = [
            UnitInWork(
                segment,
                "" if unit_id.startswith("loading ") else unit_id,
                process,
                now - began,
                (segment, unit_id) in self._isolated,
            )
            for (segment, unit_id), (began, process) in self._in_work.items()
        ]
        news.stop = self._stop
        return news

    async def sync_limits(self, report: ClientReport) -> Grants:
        """Forward to `LimitsServer.sync`; when the run stops, no further request may start."""
        grants = self._limits.sync(report)
        return grants if self._stop is None else replace(grants, stopping=True)

    async def pool(self, name: str) -> list[Any]:
        """The actors of a local model; they are started on the first call.

        Raises:
            RunError: the engine did not start.
        """
        if name not in self._pools:
            starting = start_pool(name, self._llms[name], self._models[name])
            self._pools[name] = asyncio.ensure_future(starting)
        return await asyncio.shield(self._pools[name])

    async def release(self, name: str) -> None:
        """End a local model's actors, because no stage needs them any more."""
        pool = self._pools.pop(name, None)
        if pool is None:
            return
        for actor in await pool:
            ray.kill(actor)


class Remote(Protocol[_Arguments, _Result]):
    """A method of an actor."""

    def remote(self, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> ray.ObjectRef[_Result]:
        """Call the method; returns a reference to its result at once."""


class CoordinatorHandle(Protocol):
    """The typed handle of the coordinator's actor. See `Coordinator` for the methods."""

    @property
    def begin(self) -> Remote[[int, str, WorkerProcess], Begun]: ...
    @property
    def take_apart(self) -> Remote[[int, str], None]: ...
    @property
    def moved(self) -> Remote[[int, str, WorkerProcess], None]: ...
    @property
    def loads(self) -> Remote[[int, WorkerProcess, bool], None]: ...
    @property
    def finished(self) -> Remote[[int, Receipt], None]: ...
    @property
    def progress(self) -> Remote[..., bool]: ...
    @property
    def stop(self) -> Remote[[StopKind, str], None]: ...
    @property
    def poll(self) -> Remote[[], Snapshot]: ...
    @property
    def sync_limits(self) -> Remote[[ClientReport], Grants]: ...
    @property
    def pool(self) -> Remote[[str], list[Any]]: ...
    @property
    def release(self) -> Remote[[str], None]: ...


def start_coordinator(
    storage: Storage, budget: Budget, llms: Mapping[str, LlmConfig], models: Mapping[str, str]
) -> CoordinatorHandle:
    """Start the run's coordinator. It needs no CPU of the cluster, and restarts when it dies.

    Args:
        storage: the run directory.
        budget: limits on money and tokens.
        llms: language models by name.
        models: the folder or hub id of each model.
    """
    actor = ray.remote(Coordinator).options(
        num_cpus=0, max_restarts=-1, max_task_retries=-1, max_concurrency=1000
    )
    return cast(CoordinatorHandle, actor.remote(storage, budget, llms, models))


def end_coordinator(coordinator: Any) -> None:
    """End the coordinator, and with it the pools of local models.

    Args:
        coordinator: its handle; the actor may have ended already.
    """
    with contextlib.suppress(Exception):  # must not hide the error that ended the run
        ray.kill(coordinator)
