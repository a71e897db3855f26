"""Runs a job in this process, without Ray: for tests that start hundreds of small runs.

The engine is the real one; what Ray does in it is done by threads: the coordinator's methods run on
an event loop of their own, and each segment's worker takes its units one after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import pytest
import ray

from ray_pipeline.engine import cluster, decide, worker, worker_processes
from ray_pipeline.engine import run as engine_run
from ray_pipeline.engine.coordinator import Coordinator
from ray_pipeline.engine.stored_tables import Task, Written
from ray_pipeline.engine.unit import SegmentJob
from ray_pipeline.engine.worker_processes import WorkerProcess
from ray_pipeline.rundir.units import Unit, unit_blocks
from ray_pipeline.stage import AskStage


class _Reference:
    """The result of a call, as Ray's references: to be awaited, or got."""

    def __init__(self, future: Future[Any]) -> None:
        self.future = future

    def __await__(self) -> Any:
        return asyncio.wrap_future(self.future).__await__()


class _Method:
    def __init__(self, call: Callable[..., Any], loop: asyncio.AbstractEventLoop) -> None:
        self._call, self._loop = call, loop

    def remote(self, *arguments: Any, **keys: Any) -> _Reference:
        future = asyncio.run_coroutine_threadsafe(self._call(*arguments, **keys), self._loop)
        return _Reference(future)


class _Actor:
    """A coordinator on an event loop."""

    def __init__(self, coordinator: Coordinator, loop: asyncio.AbstractEventLoop) -> None:
        self._coordinator, self._loop = coordinator, loop

    def __getattr__(self, name: str) -> _Method:
        return _Method(getattr(self._coordinator, name), self._loop)


class _Execution:
    """As `ray_pipeline.engine.streaming.Execution`."""

    def __init__(self, jobs: Sequence[SegmentJob], units: Sequence[Unit], coordinator: Any) -> None:
        self._jobs, self._units, self._coordinator = jobs, units, coordinator
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._drain, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        self._thread.join(seconds)
        if self._thread.is_alive():
            return False
        if self._error is not None:
            raise self._error
        return True

    def _drain(self) -> None:
        try:
            for job in self._jobs:
                self._run(job)
        except BaseException as error:
            self._error = error

    def _run(self, job: SegmentJob) -> None:
        blocks = unit_blocks(self._units, 1)
        if job.segment.kind is not AskStage:
            for block in blocks:
                worker.map_units(block, job, self._coordinator)
            return
        asking = worker.AskWorker(job, self._coordinator)
        try:
            for block in blocks:
                asking(block)
        finally:
            _end(asking._asking._loop)  # type: ignore[union-attr]


def _end(loop: asyncio.AbstractEventLoop) -> None:
    """End a loop and what runs on it, as the end of its process would."""

    async def cancel() -> None:
        others = asyncio.all_tasks(loop) - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    asyncio.run_coroutine_threadsafe(cancel(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)


def _run_tasks(what: str, tasks: Sequence[Task], **_: Any) -> list[Written]:
    return [task.run() for task in tasks]


@contextlib.contextmanager
def without_ray() -> Iterator[None]:
    """Run jobs in this process within the block."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    here = WorkerProcess("node", os.uname().nodename, os.getpid())

    def get(reference: _Reference, timeout: float | None = None) -> Any:
        return reference.future.result(timeout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "get", get)
        patch.setattr(cluster, "joined", lambda *_: contextlib.nullcontext())
        patch.setattr(cluster, "nodes_of_cluster", list)
        patch.setattr(cluster, "check_resources", lambda *_: None)
        patch.setattr(engine_run, "start_coordinator", lambda *a: _Actor(Coordinator(*a), loop))
        patch.setattr(engine_run, "end_coordinator", lambda _: None)
        patch.setattr(engine_run, "Execution", _Execution)
        patch.setattr(decide, "run_tasks", _run_tasks)
        patch.setattr(worker_processes, "register", lambda: here)
        yield
    _end(loop)
