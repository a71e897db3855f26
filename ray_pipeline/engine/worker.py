"""The workers: what Ray Data calls with a block of units, for each kind of stage.

A block holds units, not rows: each worker reads its units' rows from storage and commits them
there, so that nothing depends on how Ray splits, orders or repeats blocks.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Coroutine
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
import ray

from ray_pipeline.engine.account import StageAccount
from ray_pipeline.engine.ask_unit import ask_unit
from ray_pipeline.engine.blocks import units_of
from ray_pipeline.engine.decide import apply_decisions
from ray_pipeline.engine.isolation import run_isolated
from ray_pipeline.engine.lock import hold_as_worker
from ray_pipeline.engine.segment import run_maps
from ray_pipeline.engine.unit_work import SegmentJob, failed_before, reusable, run_unit
from ray_pipeline.errors import BudgetExhausted, RunError, Stopping, UserError
from ray_pipeline.llm.asker import UnitAsker
from ray_pipeline.llm.journal import FLUSH_SECONDS, Journal
from ray_pipeline.llm.limits import LimitsClient
from ray_pipeline.llm.local_pool import PooledEngine, engine_kind
from ray_pipeline.llm.openai_engine import OpenAIEngine
from ray_pipeline.llm.types import Engine
from ray_pipeline.sources.unit import Unit
from ray_pipeline.stage import AskStage, DecideStage, MapStage, ModelStage

#: A unit that killed its worker this often is taken apart until the guilty row fails alone.
MAX_DEATHS = 3

_T = TypeVar("_T")
# Held for the life of the process; see `lock`.
_worker_lock: Any = None


def map_units(block: pa.Table, job: SegmentJob, coordinator: Any) -> pa.Table:
    """Ray Data task: map stages, or the decisions of a decide stage, over the units of a block."""
    loop = _UnitLoop(job, coordinator)
    if job.segment.kind is DecideStage:
        return loop.run(block, lambda unit, rows, _: apply_decisions(job, unit.unit_id, rows))
    return loop.run(block, lambda unit, rows, start: run_maps(_maps(job), rows, start))


class ModelWorker:
    """Ray Data actor: a model stage; loads the model once."""

    def __init__(self, job: SegmentJob, coordinator: Any) -> None:
        self._loop = _UnitLoop(job, coordinator)
        self._job = job
        for stage in job.segment.stages:
            assert isinstance(stage, ModelStage)
            stage.load()

    def __call__(self, block: pa.Table) -> pa.Table:
        """Work on the units of a block."""
        return self._loop.run(
            block, lambda unit, rows, start: run_maps(_maps(self._job), rows, start)
        )


def _maps(job: SegmentJob) -> list[MapStage]:
    return [stage for stage in job.segment.stages if isinstance(stage, MapStage)]


class AskWorker:
    """Ray Data actor: an ask stage. Several calls run at once, their questions on one event loop.

    The questions of all units that this worker has in hand are in flight together, so that the
    tail of one unit is filled by the next.
    """

    def __init__(self, job: SegmentJob, coordinator: Any) -> None:
        (stage,) = job.segment.stages
        assert isinstance(stage, AskStage)
        self._stage = stage
        self._job = job
        self._units = _UnitLoop(job, coordinator)
        self._asking: AskingLoop | None = None
        try:
            self._asking = AskingLoop(job, coordinator, stage.config.llm)
        except UserError as error:
            # An exception here would be a dead actor to Ray: it is told with the first unit.
            self._broken = (
                f"{error}. It was right where the run was started, but not on the worker "
                f"{socket.gethostname()}: environment variables reach the workers of a cluster "
                "when it is started with them, or through the job's runtime environment"
            )

    def __call__(self, block: pa.Table) -> pa.Table:
        """Work on the units of a block; called from several threads."""
        return self._units.run(block, self._work)

    def _work(
        self, unit: Unit, rows: pa.Table, start: str | None
    ) -> tuple[pa.Table, list[StageAccount]]:
        if self._asking is None:
            raise RunError(self._broken)
        afresh = failed_before(self._job, unit) if self._job.retry else []
        out, account = self._asking.ask(self._stage, unit.unit_id, rows, afresh)
        return out, [account]


class AskingLoop:
    """An event loop in a thread of its own, and the engine that answers on it."""

    def __init__(self, job: SegmentJob, coordinator: Any, llm: str) -> None:
        self._job = job
        self._coordinator = coordinator
        self._llm = llm
        self._config = job.llms[llm]
        self._name = f"{os.getpid()}-{id(self)}"
        self._askers: set[UnitAsker] = set()
        self._journals: set[Journal] = set()
        # Thousands of rows wait in small objects that no cycle holds: looking through them again
        # and again cost 10% of the throughput at 256 requests in flight (benchmarks/api_stage.py).
        gc.set_threshold(50_000, 50, 20)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="asking").start()
        self._engine: Engine = self._call(self._start())

    def _call(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _start(self) -> Engine:
        self._housekeeping = asyncio.create_task(self._keep_house())
        self._limits = LimitsClient(self._name, self._coordinator.sync_limits.remote)
        if engine_kind(self._config) == "openai":
            return OpenAIEngine(self._llm, self._config, self._limits)
        pool = partial(self._coordinator.pool.remote, self._llm)
        return PooledEngine(self._llm, self._config, pool, self._limits)

    def ask(
        self, stage: AskStage, unit_id: str, rows: pa.Table, ask_afresh: list[str]
    ) -> tuple[pa.Table, StageAccount]:
        """Ask about the rows of a unit; blocks the calling thread.

        Raises:
            BudgetExhausted, RunError, Stopping: as `ask_unit`.
        """
        journal = Journal(self._job.storage, stage.name, unit_id)
        asker = UnitAsker(
            stage.name,
            self._config,
            self._job.revisions[self._llm],
            self._engine,
            journal,
            self._job.seed,
            frozenset(ask_afresh),
        )
        self._journals.add(journal)
        try:
            return self._call(self._ask(stage, rows, asker))
        finally:
            self._journals.discard(journal)
            journal.close(durable=True)

    async def _ask(
        self, stage: AskStage, rows: pa.Table, asker: UnitAsker
    ) -> tuple[pa.Table, StageAccount]:
        self._askers.add(asker)
        try:
            return await ask_unit(stage, rows, asker)
        finally:
            self._askers.discard(asker)

    async def _keep_house(self) -> None:
        """Every second: report progress, take the order to stop, put collected responses."""
        flushed = time.monotonic()
        while True:
            await asyncio.sleep(1.0)
            counts: Counter[str] = Counter()
            for asker in self._askers:
                counts["requests"] += asker.usage.requests + asker.usage.reused
                counts["completion_tokens"] += asker.usage.completion_tokens
            stop = await self._coordinator.progress.remote(
                self._name, self._job.segment.index, counts
            )
            if stop:
                self._stop()
            if time.monotonic() - flushed >= FLUSH_SECONDS and not self._job.storage.is_local:
                for journal in list(self._journals):
                    await asyncio.to_thread(journal.flush)
                flushed = time.monotonic()

    def _stop(self) -> None:
        """Start no further request; those in flight come in."""
        for asker in self._askers:
            asker.stop()
        self._limits.failure = Stopping
        self._limits.pump()


class _UnitLoop:
    """The same for every kind of worker: attempts, reuse, commit, receipts, the order to stop."""

    def __init__(self, job: SegmentJob, coordinator: Any) -> None:
        global _worker_lock
        self._job = job
        self._coordinator = coordinator
        _worker_lock = _worker_lock or hold_as_worker(job.storage)

    def run(self, block: pa.Table, work: Any) -> pa.Table:
        """Do every unit of a block; returns the units that are committed now."""
        done = 0
        for unit in units_of(block):
            try:
                self._unit(unit, work)
                done += 1
            except Stopping:
                break
            except BudgetExhausted as error:
                ray.get(self._coordinator.stop.remote("budget_exhausted", str(error)))
                break
            except (RunError, UserError) as error:
                ray.get(self._coordinator.stop.remote("failed", str(error)))
                break
        return block.slice(0, done)

    def _unit(self, unit: Unit, work: Any) -> None:
        segment = self._job.segment.index
        attempt, stop = ray.get(self._coordinator.begin.remote(segment, unit.unit_id))
        if stop:
            raise Stopping
        receipt = reusable(self._job, unit)
        if receipt is None:
            if attempt > MAX_DEATHS:
                work = self._in_isolation
            receipt = run_unit(self._job, unit, lambda rows, start: work(unit, rows, start))
        self._coordinator.finished.remote(segment, receipt)

    def _in_isolation(
        self, unit: Unit, rows: pa.Table, start: str | None
    ) -> tuple[pa.Table, list[StageAccount]]:
        return run_isolated(self._job, self._coordinator, unit.unit_id, rows, start)
