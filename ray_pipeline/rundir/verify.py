"""Looks at every file of a run directory: what is not what was written, and how it is put right.

One segment's footers are in memory at a time, and files are read a piece at a time. Nothing is
written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import orjson
import yaml

from ray_pipeline.core.errors import RunError, UserError, in_one_line
from ray_pipeline.core.hashing import fingerprint
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.account import StageAccount
from ray_pipeline.rundir.checksums import Damaged, DamagedFile, checked_json
from ray_pipeline.rundir.inspection import inspect_parts, unlike
from ray_pipeline.rundir.journal_lines import check_journal, journal_files
from ray_pipeline.rundir.layout import (
    CONFIG_FILE,
    DONE,
    ENVIRONMENT_FILE,
    EXPORTS,
    FILES_FILE,
    LEDGER_FILE,
    METRICS_FILE,
    RESPONSES,
    UNITS_FILE,
    decisions_path,
    part_path,
    rows_folder,
    segment_folder,
)
from ray_pipeline.rundir.ledger import Done, Ledger, LedgerEntry, parse_ledger
from ray_pipeline.rundir.manifest import Recorded, differences, recorded_files
from ray_pipeline.rundir.parts import HOW_TO_MAKE, OTHER_STAGES, PartInfo
from ray_pipeline.rundir.units import Unit, read_units

_THREADS = 16
_RUN_AGAIN = "Run again: it is written again"
_PART = f"Run again: {HOW_TO_MAKE.partition(': ')[2]}"
_LEFTOVER = "Nothing reads it: delete it"
_ANSWERS = "Run again: the answers in it are asked for again, and paid for again"


@dataclass(frozen=True)
class Finding:
    """A file that is not what was written."""

    #: Relative to the run directory.
    path: str
    #: What is wrong with it, as the end of a sentence that begins with its path.
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.path} {self.what}. {self.fix}"


@dataclass
class Verification:
    """A look at all files of a run directory; `findings` looks, and counts what it has seen.

    Args:
        storage: the run directory.
    """

    storage: Storage
    #: Files that were read.
    files: int = 0
    #: Of these, parts of an earlier version: they have no checksums, so that only their footers
    #: and their order could be compared.
    unchecked_parts: int = 0
    _units: list[Unit] = field(default_factory=list)
    #: The digest of each unit's rows as the next segment reads them.
    _digests: dict[str, str] = field(default_factory=dict)
    #: Digests of the rows of complete segments, which exported files hold.
    _rows_digests: set[str] = field(default_factory=set)

    def findings(self) -> Iterator[Finding]:
        """Look at all files, and yield each damage when it is found.

        Raises:
            UserError: there is no run.
            RunError: storage cannot be read.
        """
        raw = self.storage.read_bytes(LEDGER_FILE)
        if raw is None:
            raise UserError(f"{self.storage.uri()}: not a run directory (no {LEDGER_FILE})")
        ledger: Ledger | None = None
        self.files += 1
        try:
            ledger = parse_ledger(raw, LEDGER_FILE)
            if ledger.status == "succeeded":
                ledger.check()
        except (UserError, RunError) as error:
            yield Finding(LEDGER_FILE, f"is damaged: {error}", _RUN_AGAIN)
        yield from self._descriptions()
        try:
            self.files += 1
            self._units = read_units(self.storage)
        except DamagedFile as error:
            yield Finding(UNITS_FILE, f"is damaged: {error.how}", _RUN_AGAIN)
            return  # without the units, nobody knows which parts there should be
        self._digests = {unit.unit_id: unit.unit_id for unit in self._units}
        for entry in () if ledger is None else ledger.entries:
            yield from self._segment(entry)
        yield from self._journals()
        yield from self._recorded()

    def _descriptions(self) -> Iterator[Finding]:
        parsers = {
            CONFIG_FILE: yaml.safe_load,
            ENVIRONMENT_FILE: orjson.loads,
            METRICS_FILE: checked_json,
        }
        for path, parse in parsers.items():
            raw = self.storage.read_bytes(path)
            if raw is None:
                continue
            self.files += 1
            try:
                parse(raw)
            except (yaml.YAMLError, orjson.JSONDecodeError, UnicodeDecodeError, Damaged) as error:
                yield Finding(path, f"is damaged: {in_one_line(error, 100)}", _RUN_AGAIN)

    def _segment(self, entry: LedgerEntry) -> Iterator[Finding]:
        """The parts of the segment that ends with a stage, and its mark."""
        folder = segment_folder(entry.index, entry.account.name)
        try:
            done = Done.load(self.storage, folder)
        except DamagedFile as error:
            self.files += 1
            yield Finding(f"{folder}/{DONE}", f"is damaged: {error.how}", _RUN_AGAIN)
            done = None
        has_parts = next(iter(self.storage.list(rows_folder(folder))), None) is not None
        if done is not None:
            self.files += 1
            self._rows_digests.add(done.digest)
            yield from self._compare_with_ledger(folder, done, entry)
        is_for_now = done is not None and done.units == len(self._units)
        is_for_now &= done is not None and done.fingerprint == entry.fingerprint
        # A segment that makes files has no parts, and a file with its identity.
        makes_files = not has_parts and self.storage.exists(f"{folder}/identity")
        if makes_files or (done is None and not has_parts):
            return
        yield from self._parts(folder, entry, done if is_for_now else None)

    def _compare_with_ledger(
        self, folder: str, done: Done, entry: LedgerEntry
    ) -> Iterator[Finding]:
        last = done.accounts[-1] if done.accounts else StageAccount("")
        if not entry.finished or done.fingerprint != entry.fingerprint:
            return
        if (last.rows, last.reasons) != (entry.account.rows, entry.account.reasons):
            what = f"has other numbers for {entry.account.name} than {folder}/{DONE}"
            yield Finding(LEDGER_FILE, what, _RUN_AGAIN)

    def _parts(self, folder: str, entry: LedgerEntry, done: Done | None) -> Iterator[Finding]:
        unit_ids = [unit.unit_id for unit in self._units]
        digests = self._digests
        found = inspect_parts(self.storage, folder, entry.fingerprint, unit_ids, everything=True)
        self.files += len(found.infos) + len(found.damages)
        self.unchecked_parts += sum(not info.has_checksums for info in found.infos.values())
        for damage in found.damages.values():
            is_leftover = OTHER_STAGES in damage.what or damage.what == "is missing"
            if done is not None or not is_leftover:
                yield Finding(damage.path, damage.what, _PART)
        for path in found.strangers:
            yield Finding(path, "is no part of this run", _LEFTOVER)
        if done is not None and (how := unlike(done, found, unit_ids)) is not None:
            yield Finding(f"{folder}/{DONE}", how, _RUN_AGAIN)
        for unit_id, info in found.infos.items():
            if unit_id in digests and (finding := self._other_input(folder, unit_id, info)):
                yield finding
        self._digests = {unit_id: info.digest for unit_id, info in found.infos.items()}

    def _other_input(self, folder: str, unit_id: str, info: PartInfo) -> Finding | None:
        """Whether a part was made of other rows or decisions than there are."""
        rows = self._digests[unit_id]
        if info.input_digest == rows:
            return None
        path = decisions_path(folder, unit_id)
        decisions = self.storage.read_bytes(path)
        if decisions is None and not self.storage.exists(path.rpartition("/")[0]):
            what = "is damaged: it was made from other rows than those of its unit"
            return Finding(part_path(folder, unit_id), what, _PART)
        digest = hashlib.blake2b(decisions or b"", digest_size=16).hexdigest()
        if info.input_digest == fingerprint([rows, digest]):
            return None
        what = "is not what its unit's part was made with, or the part is of other rows"
        fix = f"Delete {path.rpartition('/')[0]} and {folder}/{DONE}, and run again"
        return Finding(path, what, fix)

    def _journals(self) -> Iterator[Finding]:
        paths = iter(journal_files(self.storage, RESPONSES))
        with ThreadPoolExecutor(_THREADS) as threads:
            for damages in threads.map(lambda path: check_journal(self.storage, path), paths):
                self.files += 1
                for damage in damages:
                    what = f"is damaged in line {damage.line}: {damage.what}"
                    yield Finding(damage.path, what, _ANSWERS)

    def _recorded(self) -> Iterator[Finding]:
        """Exported files, models and all else that is on the list of files."""
        try:
            recorded = recorded_files(self.storage)
        except DamagedFile as error:
            yield Finding(FILES_FILE, f"is damaged: {error.how}", "Delete it and run again")
            return
        self.files += len(recorded)
        for path, how in differences(self.storage, recorded):
            yield Finding(path, how, _fix_of(path, recorded[path]))
        for path, file in recorded.items():
            if (
                file.rows_digest
                and self._rows_digests
                and file.rows_digest not in self._rows_digests
            ):
                what = "holds other rows than the stages do now"
                yield Finding(path, what, "Run again: it is written again")


def _fix_of(path: str, recorded: Recorded) -> str:
    if recorded.stage:
        return f"Run again: the stage {recorded.stage} makes it again"
    if path.startswith(f"{EXPORTS}/"):
        return "If it is not you who changed it: delete it and run again, which writes it again"
    return _RUN_AGAIN
