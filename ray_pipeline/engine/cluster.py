"""Joining or starting Ray, quietly, and whether the cluster can carry the run."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import ray
import ray.cloudpickle
import ray.data

from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.core.resources import Resources
from ray_pipeline.engine.segments import Segment, executions
from ray_pipeline.llm.config import LlmConfig
from ray_pipeline.stage import AskStage, DecideStage, MapStage


@contextlib.contextmanager
def joined(address: str | None, log_file: Path) -> Iterator[None]:
    """Connect to a Ray cluster, or start one on this machine for the block's time.

    Args:
        address: of the cluster; ``local``: a new one; None: the one of this job or environment
            (``RAY_ADDRESS``), one that ``ray start`` started here, else a new one.
        log_file: where Ray's own log lines go.

    Raises:
        UserError: there is no cluster at the address.
    """
    with _quiet(log_file):
        if ray.is_initialized():
            _configure_data()
            yield
            return
        _connect(address or os.environ.get("RAY_ADDRESS") or None)
        _configure_data()
        try:
            yield
        finally:
            # Ends a cluster that was started here; another one goes on without this process.
            ray.shutdown()


def _connect(address: str | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    # Ray gives the workers of a cluster that it starts low priority, so that a desktop stays
    # smooth. Here they are what the machine is for: a local engine must not wait for Ray's agents.
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        if address in (None, "local"):
            # Without an address Ray joins what `ray start` has started here. "auto" would also
            # join the private cluster of another run, which ends with that run.
            ray.init(address=address, include_dashboard=False, **quiet)
            return
    except Exception as error:
        raise RunError(f"Ray did not start on this machine: {error}") from error
    try:
        _knock(address)
    except OSError as error:
        raise UserError(f"no Ray cluster at {address}: {error}") from None
    try:
        ray.init(address=address, **quiet)
    except Exception as error:
        raise UserError(
            f"no Ray cluster at {address} that can be joined: {error}. A cluster with token "
            "authentication wants RAY_AUTH_MODE=token and RAY_AUTH_TOKEN in the environment"
        ) from None


def _knock(address: str) -> None:
    """See that somebody listens at ``HOST:PORT``: Ray itself takes minutes to say no."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def ship_with_workers(module: ModuleType) -> None:
    """Send a job script's own code along with its stages: workers cannot import the script."""
    ray.cloudpickle.register_pickle_by_value(module)


@contextlib.contextmanager
def _quiet(log_file: Path) -> Iterator[None]:
    """Send what Ray logs and prints to a file: the screen is for the user's own run."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("a", encoding="utf-8") as file:
        # With a stream of its own: what ends the run is logged after this block is left.
        handler = logging.FileHandler(log_file, encoding="utf-8")
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


#: What one node has, as ``{"CPU": 2, "GPU": 0}``.
Node = Mapping[str, float]


def nodes_of_cluster() -> list[Node]:
    """The nodes of the cluster that this process has joined."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def nodes_at(address: str | None, log_file: Path) -> list[Node]:
    """The nodes of the cluster that a run would use.

    Args:
        address: of the cluster; None: the one of the environment. Where neither names one, the
            run would use this machine.
        log_file: where Ray's own log lines go.

    Raises:
        UserError: there is no cluster at the address.
    """
    if (address or os.environ.get("RAY_ADDRESS") or "local") == "local":
        return [_Machine()]
    with joined(address, log_file):
        return nodes_of_cluster()


class _Machine(dict[str, float]):
    """This machine as a node. Its GPUs are counted when asked for: torch takes seconds to load."""

    def __init__(self) -> None:
        super().__init__(CPU=os.cpu_count() or 1)

    def __missing__(self, resource: str) -> float:
        import torch

        return torch.cuda.device_count() if resource == "GPU" else 0


#: What is wanted, by where it is configured.
Needs = Mapping[str, Resources]


def check_resources(
    segments: Sequence[Segment],
    llms: Mapping[str, LlmConfig],
    nodes: Sequence[Node],
    autoscaling: bool,
) -> None:
    """Prove that everything that runs at the same time fits the cluster.

    Args:
        segments: what is to run.
        llms: models by name.
        nodes: the cluster's nodes.
        autoscaling: the cluster adds nodes when they are asked for; then nothing is refused.

    Raises:
        UserError: names what needs what, and what there is.
    """
    if autoscaling:
        return
    groups = executions(segments)
    asked = [_local_llms(group, llms) for group in groups]
    for position, group in enumerate(groups):
        # A model's pool lives from the first stage that asks it to the last.
        before, after = set().union(*asked[: position + 1]), set().union(*asked[position:])
        asked_here = {f"llms.{n}": _of_llm(llms[n], nodes) for n in sorted(before & after)}
        needs = _of_stages(group) | asked_here
        for resource in ("CPU", "GPU"):
            wanted = {who: need for who, need in needs.items() if need.of_each(resource)}
            _check_fit(resource, wanted, nodes)


def _local_llms(group: Sequence[Segment], llms: Mapping[str, LlmConfig]) -> set[str]:
    stages = [stage for segment in group for stage in segment.stages]
    names = {stage.config.llm for stage in stages if isinstance(stage, AskStage)}
    return {name for name in names if llms[name].engine_type.is_local}


def _of_stages(group: Sequence[Segment]) -> dict[str, Resources]:
    needs = {}
    if any(segment.kind in (MapStage, DecideStage) for segment in group):
        needs["map and decide stages"] = Resources(workers=1, cpus=1)
    for segment in group:
        for stage in segment.stages:
            if (resources := stage.resources()) is not None:
                needs[f"stages.{stage.name}"] = resources
    return needs


def _of_llm(config: LlmConfig, nodes: Sequence[Node]) -> Resources:
    # The number of GPUs is only asked for where it matters.
    return config.resources(_sum("GPU", nodes) if config.num_gpus is None else 0)


def _sum(resource: str, nodes: Sequence[Node]) -> float:
    return sum(_amount(node, resource) for node in nodes)


def _amount(node: Node, resource: str) -> float:
    try:
        return node[resource]
    except KeyError:
        return 0


def _check_fit(resource: str, needs: Needs, nodes: Sequence[Node]) -> None:
    if not needs:
        return
    advice = "lower actors, num_cpus or num_gpus, or take a larger cluster"
    totals = {who: need.in_total(resource) for who, need in needs.items()}
    total, have = sum(totals.values()), _sum(resource, nodes)
    if total > have:
        listed = ", ".join(f"{who} {number:g}" for who, number in totals.items())
        raise UserError(
            f"the run needs {total:g} {resource}s at the same time ({listed}), the cluster has "
            f"{have:g}; {advice}"
        )
    largest = max(_amount(node, resource) for node in nodes)
    for who, need in needs.items():
        if need.of_each(resource) > largest:
            raise UserError(
                f"a worker of {who} needs {need.of_each(resource):g} {resource}s on one node, the "
                f"largest node has {largest:g}; {advice}"
            )
