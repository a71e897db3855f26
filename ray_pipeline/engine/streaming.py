"""One streaming Ray Data execution over consecutive row-local segments.

Blocks of units stream between the operators. Ray Data schedules them, keeps all worker pools busy
at the same time, and repeats blocks that a lost node was working on. Rows are not sent between
processes: workers read them from storage and commit them there.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy, Dataset

from ray_pipeline.engine.coordinator import CoordinatorHandle
from ray_pipeline.engine.segments import task_resources
from ray_pipeline.engine.unit import SegmentJob
from ray_pipeline.engine.worker import AskWorker, ModelWorker, map_units
from ray_pipeline.rundir.units import Unit, unit_blocks
from ray_pipeline.stage import AskStage, ModelStage

#: Rows per task of quick stages, so that it takes about a second: Ray's own overhead per task is
#: about 30 ms.
_ROWS_A_TASK = 20_000
#: Maximum number of blocks of an execution with slow stages; more would only cost scheduling.
_MOST_BLOCKS = 2_000


class Execution:
    """Runs segments over units in the background.

    Args:
        jobs: the segments, in order.
        units: the units to run.
        coordinator: the run's coordinator.
    """

    def __init__(
        self, jobs: Sequence[SegmentJob], units: Sequence[Unit], coordinator: CoordinatorHandle
    ) -> None:
        self._jobs = jobs
        self._units = units
        self._coordinator = coordinator
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._drain, daemon=True, name="ray-data-execution")

    def start(self) -> None:
        """Start in the background; returns at once."""
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait at most ``seconds`` for the end; returns whether the execution has ended.

        Raises:
            Exception: the execution ended with an error, which is the one that Ray Data raised.
        """
        self._thread.join(seconds)
        if self._thread.is_alive():
            return False
        if self._error is not None:
            raise self._error
        return True

    def _drain(self) -> None:
        try:
            for _ in self._dataset().iter_batches(batch_size=None, batch_format="pyarrow"):
                pass
        except BaseException as error:
            self._error = error

    def _dataset(self) -> Dataset:
        dataset: Dataset = ray.data.from_arrow(unit_blocks(self._units, self._units_a_block()))
        for job in self._jobs:
            dataset = _operator(dataset, job, self._coordinator)
        return dataset

    def _units_a_block(self) -> int:
        rows = max(unit.rows for unit in self._units)
        if not all(map(_is_quick, self._jobs)):
            return math.ceil(len(self._units) / _MOST_BLOCKS)
        cpus = ray.cluster_resources().get("CPU", 1)
        for_balance = math.ceil(len(self._units) / (4 * cpus))
        return max(1, min(_ROWS_A_TASK // rows, for_balance))


def _is_quick(job: SegmentJob) -> bool:
    if job.segment.kind is AskStage:
        return False
    return all(stage.is_quick for stage in job.segment.stages if isinstance(stage, ModelStage))


def _operator(dataset: Dataset, job: SegmentJob, coordinator: CoordinatorHandle) -> Dataset:
    common: dict[str, Any] = {
        "batch_format": "pyarrow",
        "batch_size": None,
        "zero_copy_batch": True,
    }
    arguments = {"job": job, "coordinator": coordinator}
    if job.segment.kind is AskStage:
        calls = _concurrent_units(job)
        pool = ActorPoolStrategy(
            size=_ask_workers(job),
            max_tasks_in_flight_per_actor=2 * calls,
            max_concurrent_calls_per_actor=calls,
            enable_true_multi_threading=True,
        )
        return dataset.map_batches(
            AskWorker, fn_constructor_kwargs=arguments, compute=pool, num_cpus=0, **common
        )
    if job.segment.kind is ModelStage:
        resources = job.segment.stages[-1].resources()
        assert resources is not None
        return dataset.map_batches(
            ModelWorker,
            fn_constructor_kwargs=arguments,
            compute=ActorPoolStrategy(size=resources.workers),
            num_cpus=resources.cpus,
            num_gpus=resources.gpus or None,
            **common,
        )
    each = task_resources(job.segment.stages)
    return dataset.map_batches(
        partial(map_units, job=job, coordinator=coordinator),
        num_cpus=each.cpus,
        num_gpus=each.gpus or None,
        **common,
    )


def _ask_workers(job: SegmentJob) -> int:
    config = job.llms[job.segment.stages[-1].config.llm]
    return config.engine_type.workers(config)


def _concurrent_units(job: SegmentJob) -> int:
    """Units that an ask worker works on at once: enough requests to keep the engine busy."""
    config = job.llms[job.segment.stages[-1].config.llm]
    engine = config.engine_type
    capacity = engine.requests_at_once(config) / engine.workers(config)
    return int(min(64, max(4, math.ceil(4 * capacity / job.unit_rows))))
