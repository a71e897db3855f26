"""Live progress: a table that redraws itself on a terminal, plain lines everywhere else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ray_pipeline.engine.progress import SegmentTally, Tally

#: Seconds between plain lines of one stage.
_PLAIN_EVERY = 10.0


class ProgressDisplay:
    """Shows the progress of a run; a context manager. Implements `engine.run.Display`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        # The engine sends stray output of Ray elsewhere; the display must not bring it back.
        self._live = Live(
            console=console,
            refresh_per_second=2,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._shown: dict[int, tuple[float, int]] = {}
        self._starting: set[str] = set()

    def __enter__(self) -> ProgressDisplay:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def say(self, text: str) -> None:
        """Print one line of progress."""
        self._console.print(text, highlight=False, markup=False)

    def update(self, tally: Tally, starting: Sequence[str]) -> None:
        """Redraw the table, or print a line for each stage that made progress."""
        if self._console.is_terminal:
            self._live.update(_table(tally, starting))
            return
        for name in set(starting) - self._starting:
            self.say(f"starting the engine of {name}")
        self._starting |= set(starting)
        for index, segment in tally.segments.items():
            self._plain(index, segment)

    def _plain(self, index: int, tally: SegmentTally) -> None:
        now, done = time.monotonic(), len(tally.done)
        last_time, last_done = self._shown.get(index, (0.0, 0))
        moved = done != last_done or bool(tally.in_progress and not tally.finished)
        if moved and (tally.finished or now - last_time >= _PLAIN_EVERY):
            self._shown[index] = (now, done)
            self.say("  ".join(cell for cell in _cells(tally) if cell))


def _table(tally: Tally, starting: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("stage", "units", "rows", "rate", "ends in", "models"):
        table.add_column(heading, justify="left" if heading in ("stage", "models") else "right")
    for segment in tally.segments.values():
        table.add_row(*_cells(segment))
    if starting:
        table.caption = f"starting: {', '.join(starting)}"
    return table


def _cells(tally: SegmentTally) -> list[str]:
    """Stage, units, rows, rate, end time and model work of one segment, as text."""
    accounts = tally.accounts()
    first, last = accounts[0], accounts[-1]
    dropped = sum(account.dropped for account in accounts)
    failed = sum(account.failed for account in accounts)
    rows = f"{first.rows_in:,} → {last.kept:,} kept"
    rows += f", {dropped:,} dropped" * bool(dropped) + f", {failed:,} failed" * bool(failed)
    return [
        " + ".join(tally.segment.account_names),
        f"{len(tally.done)}/{tally.units}",
        rows,
        _rate(tally, first.rows_in),
        _duration(tally.seconds_left()) if not tally.finished else "done",
        _models(tally),
    ]


def _rate(tally: SegmentTally, rows: int) -> str:
    if tally.first_receipt is None or tally.last_receipt is None:
        return ""
    seconds = tally.last_receipt - tally.first_receipt
    return f"{rows / seconds:,.0f} rows/s" if seconds > 1 else ""


def _models(tally: SegmentTally) -> str:
    usage = tally.accounts()[-1].llm
    requests = tally.in_progress["requests"] + (usage.requests + usage.reused if usage else 0)
    tokens = tally.in_progress["completion_tokens"] + (usage.completion_tokens if usage else 0)
    if not requests:
        return ""
    cost = f", ${usage.cost_usd:,.2f}" if usage and usage.cost_usd else ""
    return f"{requests:,} requests, {tokens:,} answer tokens{cost}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min"
        if hours
        else f"{minutes} min {rest} s"
        if minutes
        else f"{rest} s"
    )
