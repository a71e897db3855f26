"""Ends a run that makes no progress although it waits for nothing that it can name.

Progress is a unit, a row or an answer that is done, or a request that was sent. Waits that can be
named are no stall: a server's pause, a request within its time-out, an engine that starts, CPUs
that are taken. Neither is a process that computes, however long: it is looked at before.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.text import duration
from ray_pipeline.engine import worker_processes
from ray_pipeline.engine.config import RunConfig
from ray_pipeline.engine.coordinator import Snapshot, UnitInWork
from ray_pipeline.engine.progress import Tally
from ray_pipeline.engine.waits import paused
from ray_pipeline.engine.worker_processes import ProcessState, WorkerProcess
from ray_pipeline.llm.config import LlmConfig
from ray_pipeline.rundir.layout import LOG_FILE
from ray_pipeline.stage import AskStage

_log = logging.getLogger("ray_pipeline")

#: Seconds that a request may be in flight beyond its time-out.
_GRACE = 30.0
#: The least share of a processor that a process uses which computes, and one that sends requests:
#: it also exchanges a few messages a second with the coordinator when it does nothing.
_COMPUTES = 0.05
_ASKS_AND_COMPUTES = 0.25
#: Seconds that a worker may take to start and to begin a unit, at least.
_START_SECONDS = 60.0
#: Units named in the message; the log has all.
_NAMED = 5


class Stalled(RunError):
    """The run makes no progress, and nothing can be named that it waits for."""


#: Looks at processes: the workers', and those of local engines by the names of their classes.
Probe = Callable[[Sequence[WorkerProcess], Sequence[str]], Sequence[ProcessState]]


@dataclass
class StallWatch:
    """Follows the progress of an execution.

    Args:
        seconds: without progress, after which it counts as stalled; None: never.
        llms: language models by name.
        autoscaling: whether the cluster adds nodes on demand.
        probe: looks at the workers' processes.
        free_cpus: the CPUs of the cluster that nothing holds.
        say: takes a line.
        clock: returns monotonic time in seconds.
    """

    seconds: float | None
    llms: Mapping[str, LlmConfig]
    autoscaling: bool
    probe: Probe
    free_cpus: Callable[[], float]
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def of(cls, config: RunConfig, say: Callable[[str], None]) -> StallWatch:
        """The watch of a run on the cluster that this process has joined."""
        return cls(
            config.stalled_after_seconds,
            config.llms,
            config.autoscaling,
            worker_processes.probe,
            lambda: ray.available_resources().get("CPU", 0.0),
            say,
        )

    def __post_init__(self) -> None:
        self._mark: Any = None
        self._since = self._looked = self.clock()

    def check(self, tally: Tally, news: Snapshot) -> None:
        """Take note of the progress; after a time without any, look for the reason.

        Raises:
            Stalled: there is none that can be named; the message lists who waits for what.
        """
        now = self.clock()
        mark = _progress(tally, news)
        if mark != self._mark:
            self._mark, self._since, self._looked = mark, now, now
            return
        if self.seconds is None:
            return
        limit = self.seconds if _has_begun(tally, news) else max(self.seconds, _START_SECONDS)
        if now - self._looked < limit:
            return
        self._looked = now
        quiet = duration(now - self._since)
        if waits := list(self._waits(news)):
            self.say(f"no progress for {quiet}: {'; '.join(waits)}")
            return
        processes = dict.fromkeys(unit.process for unit in news.in_work)
        states = self.probe(list(processes), self._busy_engines(news))
        if waits := list(self._waits_of(news, states)):
            self.say(f"no progress for {quiet}: {'; '.join(waits)}")
            return
        if working := list(self._working(tally, news, states)):
            self.say(f"no progress for {quiet}, but work goes on: {'; '.join(working)}")
            return
        raise self._stalled(tally, news, states, quiet)

    def _waits(self, news: Snapshot) -> Iterator[str]:
        """What the run waits for outside its own processes."""
        for name in news.starting:
            yield f"the engine of llms.{name} is starting"
        for key in paused(news.keys):
            yield f"the server of llms.{key.llm} asked to wait {duration(key.pause_seconds)} more"
        for key in news.keys:
            config = self.llms[key.llm]
            if config.engine_type.is_local or not key.in_flight:
                continue
            limit = config.timeout_seconds
            if key.oldest_seconds < limit + min(_GRACE, self.seconds or _GRACE):
                yield (
                    f"{key.in_flight} requests to llms.{key.llm} are in flight, the oldest for "
                    f"{duration(key.oldest_seconds)} of {duration(limit)} (timeout_seconds)"
                )

    def _waits_of(self, news: Snapshot, states: Sequence[ProcessState]) -> Iterator[str]:
        """What the run waits for where its workers are, as far as their processes live."""
        alive = {state.process for state in states if state.load is not None}
        for unit in news.in_work:
            if not unit.unit_id and unit.process in alive:
                yield f"{unit.process} loads its model, for {duration(unit.seconds)}"
        if not any(unit.process in alive for unit in news.in_work):
            if self.autoscaling:
                yield "the cluster has not added the nodes that the stages need"
            elif self.free_cpus() < 1:
                yield "no CPU of the cluster is free: other work on it holds them"

    def _busy_engines(self, news: Snapshot) -> list[str]:
        """Class names of the local engines that hold requests."""
        names = {key.llm for key in news.keys if key.in_flight}
        types = [self.llms[name].engine_type for name in names]
        return sorted({engine.__name__ for engine in types if engine.is_local})

    def _working(
        self, tally: Tally, news: Snapshot, states: Sequence[ProcessState]
    ) -> Iterator[str]:
        """The processes that compute."""
        units = {unit.process: unit for unit in news.in_work}
        for state in states:
            unit = units.get(state.process)
            asks = unit is not None and _kind(tally, unit) is AskStage
            if (state.load or 0.0) >= (_ASKS_AND_COMPUTES if asks else _COMPUTES):
                what = "a local model" if unit is None else _named(tally, unit)
                yield f"{what} ({state.process}, {state.load:.0%} of a CPU)"

    def _stalled(
        self, tally: Tally, news: Snapshot, states: Sequence[ProcessState], quiet: str
    ) -> Stalled:
        lines = list(_who_waits(tally, news))
        report = [f"no progress for {quiet}, and nothing that the run waits for has a name:"]
        report += [f"  {line}" for line in lines]
        for state in states:
            load = "it has ended" if state.load is None else f"{state.load:.1%} of a CPU"
            report.append(f"  {state.process}: {load}\n{state.stacks}")
        _log.error("%s", "\n".join(report))
        shown = "; ".join(lines[:_NAMED]) + f"; and {len(lines) - _NAMED} more" * (
            len(lines) > _NAMED
        )
        return Stalled(
            f"no progress for {quiet} (stalled_after_seconds), and the run waits for nothing that "
            f"it can name: {shown or 'no worker has begun a unit'}. {LOG_FILE} has the stacks of "
            "the workers. What is done is kept: run the same command again to continue"
        )


def _has_begun(tally: Tally, news: Snapshot) -> bool:
    """Whether a worker has begun a unit of the first segment that is not finished."""
    first = next((index for index, s in tally.segments.items() if not s.finished), None)
    return any(unit.segment == first for unit in news.in_work)


def _progress(tally: Tally, news: Snapshot) -> Any:
    """What changes with every unit, row, answer and request."""
    segments = [
        (index, len(segment.done), segment.rows_waiting, segment.requests_sent)
        for index, segment in tally.segments.items()
    ]
    return segments, [key.tries for key in news.keys], [u.unit_id for u in news.in_work]


def _who_waits(tally: Tally, news: Snapshot) -> Iterator[str]:
    """A line for each key with requests, and for each unit in work."""
    for key in news.keys:
        if key.in_flight or key.waiting:
            yield (
                f"llms.{key.llm} ({key.key}): {key.in_flight} requests in flight, the oldest for "
                f"{duration(key.oldest_seconds)}; {key.waiting} wait for one of them to end"
            )
    for unit in news.in_work:
        yield f"{_named(tally, unit)} for {duration(unit.seconds)} in {unit.process}"
    for segment in tally.segments.values():
        if not segment.finished:
            left = segment.units - len(segment.done)
            yield f"{left} units of {segment.segment.account_names[-1]} are not done"


def _named(tally: Tally, unit: UnitInWork) -> str:
    segment = tally.segments.get(unit.segment)
    stages = " + ".join(segment.segment.account_names) if segment else f"segment {unit.segment}"
    return f"unit {unit.unit_id[:8]} of {stages}" if unit.unit_id else f"loading {stages}"


def _kind(tally: Tally, unit: UnitInWork) -> Any:
    segment = tally.segments.get(unit.segment)
    return segment.segment.kind if segment else None
