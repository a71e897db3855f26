"""Live numbers of a run: what the driver shows, checks against the failure budget, and saves."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ray_pipeline.engine.coordinator import Snapshot
from ray_pipeline.engine.segments import Segment
from ray_pipeline.rundir.account import StageAccount, total


@dataclass
class SegmentTally:
    """One segment, so far."""

    segment: Segment
    units: int
    #: Accounts of committed units, by unit: a unit that is done twice counts once.
    done: dict[str, list[StageAccount]] = field(default_factory=dict)
    #: Units that stood already when the segment began.
    reused: int = 0
    #: Of the units in hand.
    in_progress: Counter[str] = field(default_factory=Counter)
    first_receipt: float | None = None
    last_receipt: float | None = None

    @property
    def finished(self) -> bool:
        """Whether every unit is committed."""
        return len(self.done) == self.units

    def accounts(self) -> list[StageAccount]:
        """The segment's stages, added up over the units that are committed."""
        return total(self.segment.account_names, self.done.values())

    def seconds_left(self) -> float | None:
        """Expected seconds to the end, from the rate of the units so far; None: too early."""
        fresh = len(self.done) - self.reused
        if self.first_receipt is None or self.last_receipt is None or fresh < 2:
            return None
        spent = self.last_receipt - self.first_receipt
        return (self.units - len(self.done)) * spent / (fresh - 1)


class Tally:
    """The segments of one execution, so far."""

    def __init__(self, segments: Sequence[Segment], units: int) -> None:
        self.segments = {segment.index: SegmentTally(segment, units) for segment in segments}

    def update(self, news: Snapshot) -> None:
        """Take in what the coordinator reported."""
        now = time.monotonic()
        for index, receipts in news.receipts.items():
            tally = self.segments.get(index)
            if tally is None:
                # The last word of a worker of an earlier execution, which Ray let go of before it
                # came. That segment was audited from its parts: nothing is missing.
                continue
            for receipt in receipts:
                tally.done[receipt.unit_id] = receipt.accounts
                tally.reused += receipt.reused
                if not receipt.reused:
                    tally.first_receipt = tally.first_receipt or now
                    tally.last_receipt = now
        for index, tally in self.segments.items():
            # A worker's last word is a second old: what it had in hand then may be committed now.
            live = Counter() if tally.finished else news.in_progress.get(index, Counter())
            tally.in_progress = live

    def failed_rows(self) -> int:
        """Rows that failed so far."""
        return sum(a.failed for tally in self.segments.values() for a in tally.accounts())
