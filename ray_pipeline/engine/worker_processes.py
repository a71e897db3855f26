"""The processes of a run's workers: whether they compute, and where in the code each of them is."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

#: Seconds over which the processor time of a process is measured.
_MEASURED_SECONDS = 3.0
#: Seconds that all probes together may take; a node that does not answer is left out.
_PROBE_SECONDS = 30.0
#: Seconds between the signal to a process and the end of the stacks that it writes.
_WRITE_SECONDS = 0.5
#: Name of the file in memory that a worker writes its stacks to.
_STACKS = "ray-pipeline-stacks"


@dataclass(frozen=True)
class WorkerProcess:
    """Where a worker runs."""

    node_id: str
    host: str
    pid: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True)
class ProcessState:
    """What a probe found of one process."""

    process: WorkerProcess
    #: Processors' time over wall time, with the process's children; None: it has ended.
    load: float | None
    #: The Python stacks of its threads; empty where it does not write them.
    stacks: str


_registered: list[object] = []


def register() -> WorkerProcess:
    """Let this worker write its stacks when it is probed; returns where it runs."""
    context = ray.get_runtime_context()
    if not _registered and sys.platform == "linux":
        # In memory, where a probe of the same user finds it under /proc, and nothing is left over.
        file = os.fdopen(os.memfd_create(_STACKS), "w")
        # A handler in C: it also runs while native code holds the interpreter.
        faulthandler.register(signal.SIGUSR2, file=file, all_threads=True)
        _registered.append(file)
    return WorkerProcess(context.get_node_id(), os.uname().nodename, os.getpid())


def probe(processes: Sequence[WorkerProcess], engines: Sequence[str]) -> list[ProcessState]:
    """The state of workers, and of the actors of local engines on every node.

    Args:
        processes: the workers.
        engines: names of the classes of local engines that hold requests.
    """
    by_node: dict[str, list[WorkerProcess]] = {
        node["NodeID"]: [] for node in ray.nodes() if node["Alive"]
    }
    for process in processes:
        if process.node_id in by_node:
            by_node[process.node_id].append(process)
    references = [
        _probe_node.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote(node, here, list(engines))
        for node, here in by_node.items()
        if here or engines
    ]
    done, _ = ray.wait(references, num_returns=len(references), timeout=_PROBE_SECONDS)
    states: list[ProcessState] = []
    for reference in done:
        with contextlib.suppress(ray.exceptions.RayError):
            states += ray.get(reference)
    return states


def kill(process: WorkerProcess) -> None:
    """End a worker's process, on its node; nothing happens if it has ended.

    Raises:
        RayError: its node cannot be reached.
    """
    here = NodeAffinitySchedulingStrategy(process.node_id, soft=False)
    ray.get(_kill.options(scheduling_strategy=here).remote(process.pid), timeout=_PROBE_SECONDS)


@ray.remote(num_cpus=0, max_retries=0)
def _kill(pid: int) -> None:
    # Only a worker that has registered has such a file: another process may have its number by now.
    if _stacks_file(pid) is not None:
        os.kill(pid, signal.SIGKILL)


@ray.remote(num_cpus=0, max_retries=0)
def _probe_node(
    node: str, processes: list[WorkerProcess], engines: list[str]
) -> list[ProcessState]:
    host = os.uname().nodename
    titles = tuple(f"ray::{engine}" for engine in engines)
    known = {process.pid for process in processes}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_engine = bool(titles) and " ".join(process.cmdline()).startswith(titles)
            if is_engine and process.pid not in known:
                processes.append(WorkerProcess(node, host, process.pid))
    before = {process.pid: _seconds(process.pid) for process in processes}
    began = time.monotonic()
    time.sleep(_MEASURED_SECONDS)
    wall = time.monotonic() - began
    states = []
    for process in processes:
        first, last = before[process.pid], _seconds(process.pid)
        load = None if first is None or last is None else (last - first) / wall
        states.append(ProcessState(process, load, _stacks(process.pid)))
    return states


def _seconds(pid: int) -> float | None:
    """Processor time of a process and its children; None: it has ended."""
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return None
    total = 0.0
    for process in family:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _stacks(pid: int) -> str:
    """What a registered process writes on the signal. It would end any other: those get none."""
    file = _stacks_file(pid)
    if file is None:
        return ""
    try:
        start = file.stat().st_size
        os.kill(pid, signal.SIGUSR2)
        time.sleep(_WRITE_SECONDS)
        with file.open(errors="replace") as stream:
            stream.seek(start)
            return stream.read()
    except OSError:
        return ""


def _stacks_file(pid: int) -> Path | None:
    """The file of a process that `register` opened; None where it did not."""
    try:
        for open_file in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                if os.readlink(open_file).startswith(f"/memfd:{_STACKS}"):
                    return open_file
    except OSError:
        pass
    return None
