"""Writes ``ledger.json`` while a run runs, and when it ends, however it ends."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ray_pipeline.core.errors import LockLost, RunError, UserError
from ray_pipeline.core.storage import Storage
from ray_pipeline.engine.exports import Exports
from ray_pipeline.engine.prepare import Prepared
from ray_pipeline.engine.progress import Tally
from ray_pipeline.engine.reuse import RunState
from ray_pipeline.engine.segments import Segment
from ray_pipeline.rundir.account import StageAccount
from ray_pipeline.rundir.layout import LEDGER_FILE, part_path, rows_folder
from ray_pipeline.rundir.ledger import Done, Ledger, LedgerEntry, Status
from ray_pipeline.rundir.parts import PartInfo, read_infos
from ray_pipeline.rundir.reader import RunReader
from ray_pipeline.rundir.responses import Unwritten
from ray_pipeline.rundir.unfinished import (
    other_requests,
    set_rows_waiting,
    unfinished_accounts,
)
from ray_pipeline.rundir.unreadable import tell
from ray_pipeline.stage import AskStage


class RunLedger:
    """The ledger of a run in progress.

    Args:
        storage: the run directory.
        prepared: the checked run.
        ledger: the ledger, without entries.
        say: called with a message when the progress cannot be saved.

    Attributes:
        of_run: the ledger; its entries are those of complete segments until the run has ended.
        state: the segments of the run.
        unwritten: answers that arrived and could not be stored.
        exports: what became of the exported files.
    """

    def __init__(
        self, storage: Storage, prepared: Prepared, ledger: Ledger, say: Callable[[str], None]
    ) -> None:
        self.of_run = ledger
        self.state = RunState([], [])
        self.unwritten = Unwritten()
        self.exports = Exports(prepared.config.export.for_spreadsheets)
        self._storage = storage
        self._rows = prepared.survey.rows
        self._unit_ids = [unit.unit_id for unit in prepared.survey.units]
        self._say = say
        self._started = time.monotonic()
        #: Indices of the segments that have begun and are not complete.
        self._begun: set[int] = set()
        self._said_unsaved = False
        # What an earlier start left unfinished, for as long as this one has not come to it.
        prints = {print_ for segment in prepared.segments for print_ in segment.fingerprints}
        self._earlier = [e for e in _unfinished_before(storage) if e.fingerprint in prints]

    def start(self) -> None:
        """Save that the run is running.

        Raises:
            RunError: the ledger cannot be written.
        """
        self._save_with([self._earlier])

    def _save(self) -> None:
        self.of_run.seconds = time.monotonic() - self._started
        set_rows_waiting(self.of_run.entries, self._rows)
        self.of_run.save(self._storage)

    def begin(self, segment: Segment) -> None:
        """Save that a segment that makes an artifact has begun."""
        self._begun.add(segment.index)
        self._save_progress([_unfinished(segment, [StageAccount(segment.name)])])

    def save_live(self, tally: Tally) -> None:
        """Save what the segments that run have come to so far."""
        parts = tally.segments.values()
        self._begun |= tally.segments.keys()
        self._save_progress([_unfinished(p.segment, p.accounts(), p.finished) for p in parts])

    def add(self, segment: Segment, done: Done, reused: bool) -> None:
        """Add and save the entries of a complete segment."""
        for index, print_, account in _numbered(segment, done.accounts):
            self.of_run.entries.append(LedgerEntry(index, print_, account, reused))
        self._begun.discard(segment.index)
        self._save_progress([])

    def _save_progress(self, unfinished: Sequence[list[LedgerEntry]]) -> None:
        """Save the ledger with entries of segments that have not finished, if it can be."""
        indices = {entry.index for entry in itertools.chain(self.of_run.entries, *unfinished)}
        earlier = [entry for entry in self._earlier if entry.index not in indices]
        try:
            self._save_with([*unfinished, earlier])
        except RunError as error:
            # What is committed counts. If storage is gone, the next commit says so.
            if not self._said_unsaved:
                self._say(f"the progress is not saved: {error}")
            self._said_unsaved = True

    def _save_with(self, unfinished: Sequence[list[LedgerEntry]]) -> None:
        settled = self.of_run.entries
        self.of_run.entries = [*settled, *itertools.chain(*unfinished)]
        try:
            self._save()
        finally:
            self.of_run.entries = settled

    def end(self, status: Status, message: str | None = None) -> None:
        """Save how the run ended, with all that was sent and spent.

        Raises:
            RunError: the ledger cannot be written; the message is that of the run's end.
        """
        if self.unwritten.answers:
            message = (
                f"{message}. {self.unwritten}: they will be asked for again when this command "
                "is run again"
            )
        ledger = self.of_run
        ledger.status, ledger.message = status, message
        ledger.waiting = []
        ledger.export_notes = [f"{path}: {note}" for path, note in self.exports.notes.items()]
        try:
            if status != "succeeded":
                # A run that does not stop in time ends twice.
                complete = sum(len(segment.account_names) for segment, _ in self.state.complete)
                unfinished = itertools.chain(*self._unfinished_on_storage())
                ledger.entries = [*ledger.entries[:complete], *unfinished]
            names = {entry.account.name for entry in ledger.entries}
            ledger.other = other_requests(self._storage, names, self._unit_ids)
            self._save()
        except LockLost:
            raise  # that is why, and the ledger is another run's
        except RunError as error:
            # Why the run stopped matters more than that the ledger cannot be written.
            why = f"{message} (and the ledger does not say so: {error})" if message else error
            raise RunError(str(why)) from error

    def _unfinished_on_storage(self) -> Iterator[list[LedgerEntry]]:
        """Entries of the segments that are not complete, from what is on storage.

        Those that never began are left out, unless an earlier start committed units or sent
        requests there.

        Raises:
            RunError: storage cannot be read.
        """
        for segment in self.state.remaining:
            infos: dict[str, PartInfo | None] = {}
            if segment.has_rows:
                committed = committed_infos(self._storage, segment, self._unit_ids)
                infos = dict(zip(self._unit_ids, committed, strict=True))
            names, asks = segment.account_names, segment.kind is AskStage
            accounts = unfinished_accounts(self._storage, names, infos, asks)
            was_begun = segment.index in self._begun or any(infos.values())
            if was_begun or any(a.llm is not None and a.llm.sent for a in accounts):
                is_finished = bool(infos) and all(infos.values())
                yield _unfinished(segment, accounts, is_finished)


def committed_infos(
    storage: Storage, segment: Segment, unit_ids: Sequence[str]
) -> list[PartInfo | None]:
    """Footers of a segment's parts, for each unit; None where the unit is not committed."""
    there = set(storage.list(rows_folder(segment.folder))) if unit_ids else set()
    committed = [unit_id for unit_id in unit_ids if part_path(segment.folder, unit_id) in there]
    by_unit = dict(zip(committed, read_infos(storage, segment.folder, committed), strict=True))
    infos = [by_unit.get(unit_id) for unit_id in unit_ids]
    return [i if i and i.fingerprint == segment.fingerprint else None for i in infos]


def _unfinished_before(storage: Storage) -> list[LedgerEntry]:
    """Entries of stages that the last run of a directory left unfinished."""
    try:
        entries = RunReader(storage.uri()).ledger.entries
    except (UserError, RunError) as error:
        if storage.exists(LEDGER_FILE):
            tell(storage, LEDGER_FILE, error)
        return []  # otherwise no run was here
    return [entry for entry in entries if not entry.finished]


def _unfinished(
    segment: Segment, accounts: Sequence[StageAccount], is_finished: bool = False
) -> list[LedgerEntry]:
    """Ledger entries of a segment that is not complete; its units may all be committed."""
    return [
        LedgerEntry(index, print_, account, finished=is_finished)
        for index, print_, account in _numbered(segment, accounts)
    ]


def _numbered(segment: Segment, accounts: Sequence[Any]) -> Iterator[tuple[int, str, Any]]:
    """Ledger index, fingerprint and account of each stage of a segment."""
    first = segment.index - len(segment.stages) + (0 if segment.reads_source else 1)
    pairs = zip(segment.fingerprints, accounts, strict=True)
    for index, (print_, account) in enumerate(pairs, start=first):
        yield index, print_, account
