"""Finds units that a worker does not get done with, and has them taken apart.

A row can hold native code up for hours, as a regular expression does on hostile text. Its worker
computes, so the run is not stalled (`stalls`), and nothing in that process can interrupt it. The
driver ends the process; the unit's next attempt runs its rows one at a time (`isolation`), and the
row that takes too long alone fails with the reason `STUCK`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import ray

from ray_pipeline.core.text import duration
from ray_pipeline.engine import worker_processes
from ray_pipeline.engine.config import RunConfig
from ray_pipeline.engine.coordinator import CoordinatorHandle, Snapshot, UnitInWork
from ray_pipeline.engine.progress import Tally
from ray_pipeline.engine.worker_processes import WorkerProcess
from ray_pipeline.stage import MapStage, ModelStage

#: A unit is not stuck before it has taken this many times as long as the slowest one of its segment
#: that is done: slow stages and large units are no fault of a row.
_TIMES_THE_SLOWEST = 10
#: A row that runs alone may take this share of the time of a unit.
_SHARE_OF_A_ROW = 0.1


def row_seconds(stuck_after_seconds: float | None) -> float | None:
    """Seconds that a row may take that runs alone; None: any time."""
    return None if stuck_after_seconds is None else _SHARE_OF_A_ROW * stuck_after_seconds


@dataclass
class StuckUnits:
    """Follows the units that workers have begun.

    Args:
        seconds: that a unit may take; None: any time.
        take_apart: orders that the rows of a unit run one at a time at its next attempt; takes the
            segment's index and the unit's id.
        kill: ends a worker's process, wherever it is.
        say: takes a line.
    """

    seconds: float | None
    take_apart: Callable[[int, str], None]
    kill: Callable[[WorkerProcess], None]
    say: Callable[[str], None]
    #: Those that were taken apart, by segment and unit id.
    _taken_apart: set[tuple[int, str]] = field(default_factory=set)

    @classmethod
    def of(
        cls, config: RunConfig, coordinator: CoordinatorHandle, say: Callable[[str], None]
    ) -> StuckUnits:
        """The watch of a run on the cluster that this process has joined."""
        return cls(
            config.stuck_after_seconds,
            lambda *order: ray.get(coordinator.take_apart.remote(*order)),
            worker_processes.kill,
            say,
        )

    def check(self, tally: Tally, news: Snapshot) -> None:
        """Have each unit taken apart that has taken too long in map stages or a model stage."""
        if self.seconds is None:
            return
        for unit in news.in_work:
            key = (unit.segment, unit.unit_id)
            if key in self._taken_apart or not self._is_stuck(tally, unit):
                continue
            self._taken_apart.add(key)
            segment = tally.segments[unit.segment]
            self.say(
                f"unit {unit.unit_id[:8]} of {' + '.join(segment.segment.account_names)} has taken "
                f"{duration(unit.seconds)} in {unit.process} (stuck_after_seconds): that process "
                "is ended, and the unit's rows run one at a time, to find the row that stops it"
            )
            self.take_apart(unit.segment, unit.unit_id)
            self.kill(unit.process)

    def _is_stuck(self, tally: Tally, unit: UnitInWork) -> bool:
        segment = tally.segments.get(unit.segment)
        if segment is None or segment.segment.kind not in (MapStage, ModelStage):
            return False
        # A worker that loads its model has no unit yet; rows that run alone are watched there.
        if not unit.unit_id or unit.is_isolated or unit.unit_id in segment.done:
            return False
        assert self.seconds is not None
        return unit.seconds > max(self.seconds, _TIMES_THE_SLOWEST * segment.slowest_seconds)
