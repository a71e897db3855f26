"""Live numbers of a run, for the display, the failure budget and the ledger."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from ray_pipeline.core.redaction import redacted
from ray_pipeline.engine.coordinator import Snapshot
from ray_pipeline.engine.segments import Segment
from ray_pipeline.rundir.account import LlmUsage, StageAccount, total
from ray_pipeline.stage import AskStage


@dataclass
class SegmentTally:
    """The progress of one segment."""

    segment: Segment
    units: int
    #: Accounts of committed units, by unit id, so that a unit that is done twice counts once.
    done: dict[str, list[StageAccount]] = field(default_factory=dict)
    #: Number of units that were committed before the segment began.
    reused: int = 0
    #: Requests about units that are not committed, those of earlier attempts included, by unit id.
    open_units: dict[str, LlmUsage] = field(default_factory=dict)
    #: Rows that wait for an answer.
    rows_waiting: int = 0
    #: Seconds of the slowest unit that this run made.
    slowest_seconds: float = 0.0
    first_receipt: float | None = None
    last_receipt: float | None = None

    @property
    def finished(self) -> bool:
        """Whether every unit is committed."""
        return len(self.done) == self.units

    def set_committed(self, unit_id: str, accounts: list[StageAccount]) -> None:
        """Count a unit that was committed before, and that this run does not look at."""
        self.done[unit_id] = accounts
        self.reused += 1

    def accounts(self) -> list[StageAccount]:
        """The accounts of the segment's stages: the rows of the committed units, all requests."""
        accounts = total(self.segment.account_names, self.done.values())
        if self.segment.kind is AskStage:
            usage = accounts[-1].llm = accounts[-1].llm or LlmUsage()
            for requests in self.open_units.values():
                usage.add(requests)
        return accounts

    @property
    def requests_sent(self) -> int:
        """Number of requests about units that are not committed."""
        return sum(usage.requests for usage in self.open_units.values())

    def seconds_left(self) -> float | None:
        """Estimated seconds until the segment is finished, at the rate so far.

        None while fewer than two units were done in this run.
        """
        newly_done = len(self.done) - self.reused
        if self.first_receipt is None or self.last_receipt is None or newly_done < 2:
            return None
        spent = self.last_receipt - self.first_receipt
        return (self.units - len(self.done)) * spent / (newly_done - 1)


class Tally:
    """The progress of the segments of one execution.

    Args:
        segments: the segments.
        units: number of units.
        earlier: requests of earlier attempts at units that are not committed, by segment index.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        units: int,
        earlier: Mapping[int, dict[str, LlmUsage]] = MappingProxyType({}),
    ) -> None:
        self.segments = {
            segment.index: SegmentTally(
                segment, units, open_units=dict(earlier.get(segment.index, {}))
            )
            for segment in segments
        }

    def update(self, news: Snapshot) -> None:
        """Add what the coordinator reported."""
        now = time.monotonic()
        for index, receipts in news.receipts.items():
            tally = self.segments.get(index)
            if tally is None:
                # A late receipt from a worker of an earlier execution. That segment was audited
                # from its parts, so nothing is missing.
                continue
            for receipt in receipts:
                tally.done[receipt.unit_id] = receipt.accounts
                tally.reused += receipt.reused
                if not receipt.reused:
                    tally.first_receipt = tally.first_receipt or now
                    tally.last_receipt = now
                    seconds = sum(account.seconds for account in receipt.accounts)
                    tally.slowest_seconds = max(tally.slowest_seconds, seconds)
        for index, tally in self.segments.items():
            tally.rows_waiting = 0 if tally.finished else news.rows_waiting[index]
            # The last report stays when its worker dies: what it says is on storage.
            tally.open_units |= news.in_progress.get(index, {})
            # A report may be a second old: the unit may be committed by now.
            for unit_id in tally.open_units.keys() & tally.done.keys():
                del tally.open_units[unit_id]

    def rows_in_work(self) -> dict[str, int]:
        """Number of rows that wait for an answer, by the name of the language model."""
        rows: Counter[str] = Counter()
        for tally in self.segments.values():
            for stage in tally.segment.stages:
                if isinstance(stage, AskStage):
                    rows[stage.config.llm] += tally.rows_waiting
        return dict(rows)

    def failed_rows(self) -> int:
        """Number of rows that failed so far."""
        return sum(a.failed for tally in self.segments.values() for a in tally.accounts())


class Display(Protocol):
    """Receives the progress of a run."""

    def say(self, text: str) -> None:
        """Show a line of text."""

    def update(self, tally: Tally, starting: Sequence[str]) -> None:
        """Show the numbers; called twice a second.

        Args:
            tally: the progress of the segments that run.
            starting: names of local models that are starting.
        """


class Discreet:
    """A display that is told no secrets.

    Args:
        display: gets the lines without them.
    """

    def __init__(self, display: Display) -> None:
        self._display = display
        self.update = display.update

    def say(self, text: str) -> None:
        """See `Display`."""
        self._display.say(redacted(text))
