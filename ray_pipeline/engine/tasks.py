"""Runs the tasks of a decision on the cluster."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray

from ray_pipeline.engine.stored_tables import Task, Written
from ray_pipeline.rundir.lock import hold_as_worker

#: Seconds between two words on how far a step is.
_SAY_EVERY = 10.0

# Held for the life of the process; see `lock`.
_worker_lock: Any = None


class RayRunner:
    """Runs the tasks of a step as Ray tasks, a bounded number at a time.

    Args:
        say: takes a line on the progress of long steps.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        # A lost node or worker is Ray's to try again; an exception of ours is not.
        self._remote = ray.remote(num_cpus=1, max_retries=10, retry_exceptions=False)(_run)

    def __call__(self, what: str, tasks: Sequence[Task]) -> list[Written]:
        """Run them all.

        Raises:
            RayTaskError: what a task raised; the others are cancelled.
        """
        waiting = list(enumerate(tasks))[::-1]
        running: dict[Any, int] = {}
        written: dict[int, Written] = {}
        said = time.monotonic()
        try:
            while waiting or running:
                most = 4 * int(ray.cluster_resources().get("CPU", 1))
                while waiting and len(running) < most:
                    number, task = waiting.pop()
                    running[self._remote.remote(task)] = number
                done, _ = ray.wait(list(running), timeout=1.0)
                for reference in done:
                    written[running.pop(reference)] = ray.get(reference)
                if time.monotonic() - said > _SAY_EVERY:
                    self._say(f"{what}: {len(written)} of {len(tasks)} parts")
                    said = time.monotonic()
        finally:
            for reference in running:
                with contextlib.suppress(Exception):
                    ray.cancel(reference)
        return [written[number] for number in range(len(tasks))]


def _run(task: Task) -> Written:
    global _worker_lock
    _worker_lock = _worker_lock or hold_as_worker(task.storage)
    return task.run()
