"""Joining or starting Ray, quietly, and whether the cluster can carry the run."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import ray
import ray.cloudpickle
import ray.data

from ray_pipeline.engine.unit_work import SegmentJob
from ray_pipeline.errors import RunError, UserError
from ray_pipeline.llm.local_pool import engine_kind
from ray_pipeline.stage import AskStage, MapStage, ModelStage


@contextlib.contextmanager
def joined(address: str | None, log_file: Path) -> Iterator[None]:
    """Connect to a Ray cluster, or start one on this machine for the block's time.

    Args:
        address: of the cluster; ``local``: a new one; None: the one of this job or environment
            (``RAY_ADDRESS``), one that already runs here, else a new one.
        log_file: where Ray's own log lines go.

    Raises:
        UserError: there is no cluster at the address.
    """
    with _quiet(log_file):
        if ray.is_initialized():
            _configure_data()
            yield
            return
        started = _connect(address or os.environ.get("RAY_ADDRESS"))
        _configure_data()
        try:
            yield
        finally:
            # Only a cluster that this process started ends with it.
            if started:
                ray.shutdown()


def _connect(address: str | None) -> bool:
    """Connect; returns whether a cluster had to be started (``local`` asks for a new one)."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address != "local":
            ray.init(address=address or "auto", **quiet)
            return False
    except ConnectionError as error:
        if address is not None:
            raise UserError(f"no Ray cluster at {address}: {error}") from None
    try:
        ray.init(address="local", include_dashboard=False, **quiet)
    except Exception as error:
        raise RunError(f"Ray did not start on this machine: {error}") from error
    return True


def ship_with_workers(module: ModuleType) -> None:
    """Send a job script's own code along with its stages: workers cannot import the script."""
    ray.cloudpickle.register_pickle_by_value(module)


@contextlib.contextmanager
def _quiet(log_file: Path) -> Iterator[None]:
    """Send what Ray logs and prints to a file: the screen is for the user's own run."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("a", encoding="utf-8") as file:
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        for name in ("ray", "ray.data"):
            logger = logging.getLogger(name)
            logger.handlers = [handler]
            logger.propagate = False
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            yield


def _configure_data() -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Sorting shuffles run as plain tasks. The hash shuffle holds actors with CPUs of their own,
    # which small clusters do not have.
    context.shuffle_strategy = "sort_shuffle_pull_based"


def check_resources(
    jobs: Sequence[SegmentJob], have: Mapping[str, float], autoscaling: bool
) -> None:
    """Prove that everything that runs at the same time fits the cluster.

    Args:
        jobs: segments of one execution.
        have: the cluster's resources, as ``{"CPU": 2, "GPU": 0}``.
        autoscaling: the cluster adds nodes when they are asked for; then nothing is refused.

    Raises:
        UserError: names what needs what, and what there is.
    """
    needs: list[tuple[str, str, float]] = []
    if any(job.segment.kind is MapStage for job in jobs):
        needs.append(("map stages", "CPU", 1))
    seen: set[str] = set()
    for job in jobs:
        stage = job.segment.stages[-1] if job.segment.stages else None
        if isinstance(stage, ModelStage):
            config = stage.config
            needs.append((f"stages.{stage.name}", "CPU", config.actors * (config.num_cpus or 0)))
            needs.append((f"stages.{stage.name}", "GPU", config.actors * config.num_gpus))
        if isinstance(stage, AskStage) and stage.config.llm not in seen:
            seen.add(stage.config.llm)
            llm = job.llms[stage.config.llm]
            if engine_kind(llm) != "openai":
                where = f"llms.{stage.config.llm}"
                needs.append((where, "CPU", llm.actors * (llm.num_cpus or 0)))
                needs.append((where, "GPU", llm.actors * (llm.num_gpus or 0)))
    for resource in ("CPU", "GPU"):
        wanted = [(who, amount) for who, kind, amount in needs if kind == resource and amount]
        total = sum(amount for _, amount in wanted)
        if total > have.get(resource, 0) and not autoscaling:
            listed = ", ".join(f"{who} {amount:g}" for who, amount in wanted)
            raise UserError(
                f"the run needs {total:g} {resource}s at the same time ({listed}), the cluster has "
                f"{have.get(resource, 0):g}; lower actors, num_cpus or num_gpus, or take a larger "
                "cluster"
            )
