"""Joins or starts a Ray cluster, and checks that it has the resources for the run."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import ray
import ray.cloudpickle
import ray.data
from ray._private import ray_constants

from ray_pipeline.core.errors import UserError, cause_in_words
from ray_pipeline.core.resources import Resources
from ray_pipeline.engine.log_file import LogFile
from ray_pipeline.engine.ray_environment import (
    ClusterAddress,
    check_machine,
    check_workers_folder,
    cluster_address,
    ended_by_interrupt,
    hang_up_blocked,
    sigterm_kept,
)
from ray_pipeline.engine.ray_sessions import mark_session, remove_left_sessions, remove_session
from ray_pipeline.engine.segments import Segment, executions, task_resources
from ray_pipeline.llm.config import LlmConfig
from ray_pipeline.models.vllm_sockets import remove_left_sockets
from ray_pipeline.stage import AskStage, DecideStage, MapStage


@contextlib.contextmanager
def joined(
    address: str | None,
    log_file: Path,
    say: Callable[[str], None] = lambda line: None,
    interrupted: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Connect to a Ray cluster, or start one on this machine, for the duration of the block.

    Args:
        address: of the cluster; ``local``: a new one; None: the cluster of ``RAY_ADDRESS`` or of
            this Ray job, one that ``ray start`` started here, else a new one.
        log_file: where Ray's own log lines go.
        say: takes a line on what is waited for.
        interrupted: called before the process ends because of Ctrl-C while Ray does not return.

    Raises:
        UserError: there is no cluster at the address, or Ray cannot start on this machine; the
            message says why, and how to fix it.
    """
    with _quiet(log_file):
        if ray.is_initialized():
            _configure_data()
            yield
            return
        cluster = cluster_address(address)
        check_workers_folder()
        folder = None
        with ended_by_interrupt(interrupted), sigterm_kept():
            if cluster is None:
                folder = _start()
            else:
                _join(cluster, say)
        _configure_data()
        try:
            yield
        except Exception:
            folder = None  # Ray's own logs may say why
            raise
        finally:
            # Ends a cluster that was started here; one that was joined keeps running.
            ray.shutdown()
            remove_left_sockets()
            if folder is not None:
                remove_session(folder)


_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}


def _start() -> Path:
    """Start Ray on this machine, as a cluster that ends with this process; returns its folder."""
    check_machine()
    remove_left_sessions()
    # Ray starts its workers with a low priority, so that a desktop stays responsive. Here they are
    # the machine's main work: a local engine must not wait for Ray's agents.
    os.environ.setdefault("RAY_worker_niceness", "0")
    token = Path.home() / ".ray" / "auth_token"
    has_token = token.exists()
    try:
        with hang_up_blocked(), _on_loopback():
            context: Any = ray.init(address="local", include_dashboard=False, **_QUIET)
    except Exception as error:
        raise UserError(f"Ray did not start on this machine: {cause_in_words(error)}") from error
    if not has_token:
        with contextlib.suppress(OSError):
            token.chmod(0o600)  # Ray has made it for this cluster, and lets every user read it
    folder = Path(context.address_info["session_dir"])
    mark_session(folder)
    return folder


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Let a cluster that the block starts listen on 127.0.0.1 only: whoever joins it runs code.

    Ray's ports are on all interfaces where its node has an address of the network. It does without
    on macOS and Windows, by a constant; an environment variable sets it when Ray is imported, too
    early to know whether a cluster is started or joined, and `ray.init` has no argument for it:
    it replaces 127.0.0.1 by the address of the network.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _join(cluster: ClusterAddress, say: Callable[[str], None]) -> None:
    cluster.check()
    say(f"joining the Ray cluster at {cluster.value} ({cluster.origin})")
    try:
        ray.init(address=cluster.value, **_QUIET)
    except Exception as error:
        raise UserError(
            f"no Ray cluster at {cluster.value} ({cluster.origin}) that can be joined: "
            f"{cause_in_words(error)}. A cluster with token authentication wants "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN in the environment; otherwise correct the "
            f"address, {cluster.otherwise}"
        ) from None


def ship_with_workers(module: ModuleType) -> None:
    """Pickle a job script's code by value with its stages: workers cannot import the script."""
    ray.cloudpickle.register_pickle_by_value(module)


@contextlib.contextmanager
def _quiet(log_file: Path) -> Iterator[None]:
    """Redirect what Ray logs and prints to a file, so that it does not disturb the display."""
    with LogFile(log_file) as file:
        # With a stream of its own, because the end of the run is logged after this block.
        handler = logging.StreamHandler(LogFile(log_file))
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


#: The resources of one node, as ``{"CPU": 2, "GPU": 0}``.
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
    """This machine as a node. GPUs are counted on first use: importing torch takes seconds."""

    def __init__(self) -> None:
        super().__init__(CPU=os.cpu_count() or 1)

    def __missing__(self, resource: str) -> float:
        import torch

        return torch.cuda.device_count() if resource == "GPU" else 0


#: The resources needed, by the configuration key that sets them.
Needs = Mapping[str, Resources]


def check_resources(
    segments: Sequence[Segment],
    llms: Mapping[str, LlmConfig],
    nodes: Sequence[Node],
    autoscaling: bool,
) -> None:
    """Check that everything that runs at the same time fits the cluster.

    Args:
        segments: the segments to run.
        llms: language models by name.
        nodes: the cluster's nodes.
        autoscaling: whether the cluster adds nodes on demand; then nothing is checked.

    Raises:
        UserError: the cluster is too small; the message lists what is needed and available.
    """
    if autoscaling:
        return
    groups = executions(segments)
    used = [_local_llms(group, llms) for group in groups]
    for position, group in enumerate(groups):
        # A model's pool lives from the first stage that uses it to the last.
        before, after = set().union(*used[: position + 1]), set().union(*used[position:])
        pools = {f"llms.{n}": _of_llm(llms[n], nodes) for n in sorted(before & after)}
        needs = _of_stages(group) | pools
        for resource in ("CPU", "GPU"):
            of_resource = {key: need for key, need in needs.items() if need.of_each(resource)}
            _check_fit(resource, of_resource, nodes)


def check_servers(
    segments: Sequence[Segment], llms: Mapping[str, LlmConfig], say: Callable[[str], None]
) -> None:
    """Check the way to the models that segments ask, and say what the user should know of it.

    Raises:
        UserError: something stands in the way, such as a proxy that cannot be reached.
    """
    stages = [stage for segment in segments for stage in segment.stages]
    for name in sorted({stage.config.llm for stage in stages if isinstance(stage, AskStage)}):
        if note := llms[name].engine_type.check_network(name, llms[name]):
            say(note)


def _local_llms(group: Sequence[Segment], llms: Mapping[str, LlmConfig]) -> set[str]:
    stages = [stage for segment in group for stage in segment.stages]
    names = {stage.config.llm for stage in stages if isinstance(stage, AskStage)}
    return {name for name in names if llms[name].engine_type.is_local}


def _of_stages(group: Sequence[Segment]) -> dict[str, Resources]:
    needs = {}
    in_tasks = [segment for segment in group if segment.kind in (MapStage, DecideStage)]
    if in_tasks:
        stages = [stage for segment in in_tasks for stage in segment.stages]
        needs["map and decide stages"] = task_resources(stages)
    for segment in group:
        for stage in () if segment in in_tasks else segment.stages:
            if (resources := stage.resources()) is not None:
                needs[f"stages.{stage.name}"] = resources
    return needs


def _of_llm(config: LlmConfig, nodes: Sequence[Node]) -> Resources:
    # GPUs are only counted where the number matters: it may import torch.
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
    totals = {key: need.in_total(resource) for key, need in needs.items()}
    total, available = sum(totals.values()), _sum(resource, nodes)
    if total > available:
        listed = ", ".join(f"{key} {number:g}" for key, number in totals.items())
        raise UserError(
            f"the run needs {total:g} {resource}s at the same time ({listed}), the cluster has "
            f"{available:g}; {advice}"
        )
    largest = max(_amount(node, resource) for node in nodes)
    for key, need in needs.items():
        if need.of_each(resource) > largest:
            raise UserError(
                f"a worker of {key} needs {need.of_each(resource):g} {resource}s on one node, the "
                f"largest node has {largest:g}; {advice}"
            )
