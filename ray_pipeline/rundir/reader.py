"""Reads a run directory, finished or running: its ledger, its units and their parts.

Only the directory is needed: not the job, the source or Ray. Memory is bounded however large the
run is: one large part at a time, and a cache of small ones.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import Any, TypeVar

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from ray_pipeline.core.columns import is_text
from ray_pipeline.core.config import nearest
from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.core.rows import ENVELOPE_COLUMNS
from ray_pipeline.core.storage import Storage
from ray_pipeline.models.thinking import split_thinking
from ray_pipeline.rundir.checksums import Damaged, DamagedFile, checked_json
from ray_pipeline.rundir.layout import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    LEDGER_FILE,
    METRICS_FILE,
    RUN_LOCK,
    SOURCE_NAME,
    part_path,
    responses_folder,
    rows_folder,
    segment_folder,
)
from ray_pipeline.rundir.ledger import Done, LedgerEntry, parse_ledger
from ray_pipeline.rundir.nearby import runs_nearby
from ray_pipeline.rundir.parts import (
    OTHER_STAGES,
    DamagedPart,
    OpenedParts,
    Part,
    PartInfo,
    damaged,
    missing_part,
)
from ray_pipeline.rundir.responses import read_records
from ray_pipeline.rundir.unfinished import set_rows_waiting, unfinished_accounts
from ray_pipeline.rundir.units import Unit, read_units

_T = TypeVar("_T")

#: The shortest prefix of a row id that can be searched for, in digits.
SHORTEST_PREFIX = 6
#: Number of text columns to show when the configuration maps none.
_TEXTS = 3
#: Text columns that the pipeline added, which are not data of the source.
_NOT_DATA = {SOURCE_NAME, "source_raw", "version", "note", *ENVELOPE_COLUMNS}
#: Parts that are read at the same time.
_THREADS = 16


@dataclass(frozen=True)
class SegmentFolder:
    """A segment (stages that committed together) as found in the run directory."""

    #: ``stages/03-clean-text``, relative to the run directory.
    folder: str
    #: Fingerprint of its last stage: parts with another one are leftovers of an earlier run.
    fingerprint: str
    #: Names in the ledger, in order; ``source`` among them where the segment read the source.
    stages: tuple[str, ...]
    #: Whether all units of the run are committed: a part that is not there has been lost.
    is_complete: bool = False


@dataclass(frozen=True)
class Answer:
    """A response of a language model, as recorded in the journal."""

    stage: str
    model: str
    text: str
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    attempts: int
    #: What the model thought before it answered; empty if it did not, or not visibly.
    thinking: str
    #: Whether it was judged unusable; the request was then repeated, or the row failed.
    rejected: bool
    #: Whether `text` is the raw body of a reply that could not be parsed.
    malformed: bool


class RunReader:
    """A run directory, opened for reading.

    Args:
        uri: local path or object-storage URI.

    Raises:
        UserError: there is no run at `uri`; the message names the nearest directories with one.
    """

    def __init__(self, uri: str) -> None:
        self.storage = Storage(uri)
        raw = self.storage.read_bytes(LEDGER_FILE)
        if raw is None:
            raise UserError(f"{uri}: not a run directory (no ledger.json){runs_nearby(uri)}")
        self.ledger = parse_ledger(raw, self.storage.uri(LEDGER_FILE))
        self._parts = OpenedParts(self.storage)
        self._schemas: dict[str, pa.Schema] = {}
        if self.driver_is_gone():
            self._complete_ledger()

    def _complete_ledger(self) -> None:
        """Count anew what a killed process left unfinished: its last save is seconds old."""
        entries = self.ledger.entries
        for entry in entries:
            if entry.finished:
                continue
            segment = self._segment_ending_with(entry)
            names = (entry.account.name,) if segment is None else segment.stages
            infos: dict[str, PartInfo | None] = dict.fromkeys(u.unit_id for u in self.units)
            if segment is not None:
                look = partial(self._info_if_whole, segment)
                infos |= {unit.unit_id: info for unit, info in _in_threads(look, self.units)}
            asks = entry.account.llm is not None
            for account in unfinished_accounts(self.storage, names, infos, asks):
                self.entry(account.name).account = account
        set_rows_waiting(entries, sum(unit.rows for unit in self.units))

    @cached_property
    def config_text(self) -> str:
        """The text of ``config.yaml``; empty when there is none."""
        return (self.storage.read_bytes(CONFIG_FILE) or b"").decode(errors="replace")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration, as plain data."""
        try:
            loaded = yaml.safe_load(self.config_text)
        except yaml.YAMLError as error:
            raise RunError(f"{self.storage.uri('config.yaml')}: not YAML: {error}") from error
        return loaded if isinstance(loaded, dict) else {}

    @cached_property
    def environment(self) -> dict[str, Any]:
        """The content of ``environment.json``; empty when the run ended before writing it."""
        loaded = orjson.loads(self.storage.read_bytes(ENVIRONMENT_FILE) or b"{}")
        return loaded if isinstance(loaded, dict) else {}

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The content of ``metrics.json``: figures of artifact stages, by stage.

        It may still hold stages of an earlier run in the same directory: see `made_by`.
        """
        raw = self.storage.read_bytes(METRICS_FILE)
        try:
            return {} if raw is None else checked_json(raw)
        except Damaged as error:
            raise DamagedFile(
                f"{self.storage.uri(METRICS_FILE)} is damaged: {error}. Run again: the stages that "
                "train or evaluate make it again",
                str(error),
            ) from None

    def made_by(self, stage: str) -> dict[str, Any] | None:
        """Figures of an artifact stage of this run; None if the stage has made no artifact."""
        figures = self.metrics.get(stage)
        entries = self.ledger.entries
        in_ledger = any(entry.finished and entry.account.name == stage for entry in entries)
        return figures if in_ledger and isinstance(figures, dict) else None

    @cached_property
    def units(self) -> list[Unit]:
        """The units, in the source's order."""
        return read_units(self.storage)

    @cached_property
    def segments(self) -> list[SegmentFolder]:
        """The folders that hold this run's rows, in order.

        They are found from the last stage backwards: the footers in each folder name its stages.
        So a folder left by an earlier run that was cut into other segments is never included.
        """
        folders: list[SegmentFolder] = []
        by_index = {entry.index: entry for entry in self.ledger.entries}
        index = max(by_index, default=-1)
        while index >= 0:
            segment = self._segment_ending_with(by_index[index]) if index in by_index else None
            if segment is not None:
                folders.append(segment)
            index -= len(segment.stages) if segment is not None else 1
        return folders[::-1]

    def _segment_ending_with(self, entry: LedgerEntry) -> SegmentFolder | None:
        folder = segment_folder(entry.index, entry.account.name)
        committed = set(self.storage.list(rows_folder(folder)))
        damage: DamagedPart | None = None
        for unit in self.units:
            path = part_path(folder, unit.unit_id)
            try:
                info = self._parts.info(path) if path in committed else None
            except DamagedPart as error:
                damage, info = damage or error, None
            if info is not None and info.fingerprint == entry.fingerprint:
                names = tuple(account.name for account in info.accounts)
                is_complete = self._is_complete(folder, entry)
                return SegmentFolder(folder, entry.fingerprint, names, is_complete)
        if damage is not None and self._is_complete(folder, entry):
            raise damage  # no part of this segment is whole
        return None

    def _is_complete(self, folder: str, entry: LedgerEntry) -> bool:
        try:
            done = Done.load(self.storage, folder)
        except DamagedFile:
            return entry.finished
        if done is None:
            return False
        return done.fingerprint == entry.fingerprint and done.units == len(self.units)

    @cached_property
    def identities(self) -> dict[str, Any]:
        """What the fingerprints of complete stages were made of, by stage.

        Stages that did not complete, or that an earlier version of this code ran, are missing.
        """
        identities: dict[str, Any] = {}
        for entry in self.ledger.entries:
            folder = segment_folder(entry.index, entry.account.name)
            done = Done.load(self.storage, folder)
            if done is not None and done.fingerprint == entry.fingerprint:
                identities |= done.identities
        return identities

    def entry(self, stage: str) -> LedgerEntry:
        """A stage's entry in the ledger.

        Raises:
            UserError: no such stage; the message names the nearest.
        """
        by_name = {entry.account.name: entry for entry in self.ledger.entries}
        if stage not in by_name:
            where = f"{self.storage.uri()}: the ledger has no stage {stage!r}"
            raise UserError(where + nearest(stage, list(by_name)))
        return by_name[stage]

    def segment_of(self, stage: str) -> SegmentFolder | None:
        """The segment that a stage belongs to; None if none of its units is committed."""
        return next((s for s in self.segments if stage in s.stages), None)

    def upstream_of(self, segment: SegmentFolder) -> SegmentFolder | None:
        """The segment whose kept rows ``segment`` read; None where it read the source."""
        position = self.segments.index(segment)
        return self.segments[position - 1] if position else None

    def part_info(self, segment: SegmentFolder, unit: Unit) -> PartInfo | None:
        """The footer of a unit's part; None unless this run's stages committed it.

        Raises:
            DamagedPart: it is not what was written, or a complete segment has lost it.
        """
        path = part_path(segment.folder, unit.unit_id)
        return self._ours(segment, path, self._parts.info(path))

    def _info_if_whole(self, segment: SegmentFolder, unit: Unit) -> PartInfo | None:
        """As `part_info`; a damaged part counts as not committed."""
        try:
            return self.part_info(segment, unit)
        except DamagedPart:
            return None

    def _part(self, segment: SegmentFolder, unit: Unit) -> Part | None:
        """A unit's part, as for `part_info`."""
        path = part_path(segment.folder, unit.unit_id)
        part = self._parts.open(path)
        ours = self._ours(segment, path, None if part is None else part.info)
        return None if ours is None else part

    def _ours(self, segment: SegmentFolder, path: str, info: PartInfo | None) -> PartInfo | None:
        """A part's footer, if it is of this segment."""
        if info is not None and info.fingerprint == segment.fingerprint:
            return info
        if not segment.is_complete:
            return None
        if info is None:
            raise missing_part(self.storage, path)
        raise damaged(self.storage, path, OTHER_STAGES)

    def part(self, segment: SegmentFolder, unit: Unit) -> pa.Table | None:
        """All rows of a unit after a segment; None when it is not committed."""
        part = self._part(segment, unit)
        return None if part is None else part.rows()

    def rows_of(self, segment: SegmentFolder, unit: Unit, columns: Sequence[str]) -> pa.Table:
        """Some columns of a committed unit's rows.

        Raises:
            RunError: the part is gone, or has no such column.
        """
        part = self._part(segment, unit)
        if part is None:
            raise missing_part(self.storage, part_path(segment.folder, unit.unit_id))
        return part.rows(columns)

    def schema(self, segment: SegmentFolder) -> pa.Schema:
        """The schema of a segment's first committed part; empty where none is committed."""
        if segment.folder not in self._schemas:
            parts = (self._part(segment, unit) for unit in self.units)
            first = next((part for part in parts if part is not None), None)
            self._schemas[segment.folder] = pa.schema([]) if first is None else first.schema
        return self._schemas[segment.folder]

    def columns(
        self, segment: SegmentFolder, unit: Unit, names: Collection[str]
    ) -> pa.Table | None:
        """Some columns of a unit's rows after a segment; columns that do not exist are null.

        Returns: None when the unit is not committed.
        """
        part = self._part(segment, unit)
        if part is None:
            return None
        table = part.rows([name for name in names if name in part.schema.names])
        for name in names:
            if name not in table.column_names:
                table = table.append_column(name, pa.nulls(part.info.rows))
        return table.select(list(names))

    def each_unit(
        self, segment: SegmentFolder, names: Collection[str], units: Collection[Unit] | None = None
    ) -> Iterator[tuple[Unit, pa.Table]]:
        """Some columns of each committed unit, in order, with nulls as in `columns`.

        The tables of several units are in memory at once, so the columns should be narrow.
        """
        wanted = self.units if units is None else units
        for unit, table in _in_threads(lambda unit: self.columns(segment, unit, names), wanted):
            if table is not None:
                yield unit, table

    def part_infos(
        self, segment: SegmentFolder, units: Collection[Unit] | None = None
    ) -> Iterator[tuple[Unit, PartInfo]]:
        """Committed units of a segment with their footers, in order, read a few at a time."""
        wanted = self.units if units is None else units
        for unit, info in _in_threads(lambda unit: self.part_info(segment, unit), wanted):
            if info is not None:
                yield unit, info

    def find(self, row_id: str) -> tuple[str, Unit]:
        """The full id of a row, and its unit.

        Args:
            row_id: the id, or a unique prefix of it.

        Raises:
            UserError: no row matches, or several do.
        """
        wanted = row_id.strip().lower()
        if len(wanted) < SHORTEST_PREFIX:
            raise UserError(f"row id {row_id!r}: give at least {SHORTEST_PREFIX} of its digits")
        found: dict[str, Unit] = {}
        for segment in self.segments:
            look = partial(self._new_ids, segment, wanted)
            for unit, ids in _in_threads(look, self.units):
                found |= dict.fromkeys(ids, unit)
                if wanted in ids:
                    return wanted, unit
        if len(found) == 1:
            return next(iter(found.items()))
        if found:
            some = ", ".join(sorted(found)[:5])
            raise UserError(f"row id {row_id!r}: {len(found)} rows begin so: {some}")
        raise UserError(f"row id {row_id!r}: no committed row of {self.storage.uri()} has it")

    def _new_ids(self, segment: SegmentFolder, prefix: str, unit: Unit) -> list[str]:
        """Ids with a prefix, from a unit's part that has rows that no earlier segment had."""
        info = self.part_info(segment, unit)
        is_first = segment is self.segments[0]
        if info is None or not (is_first or any(account.created for account in info.accounts)):
            return []
        rows = self.columns(segment, unit, ["row_id"])
        assert rows is not None  # it has a footer
        ids: list[str] = rows["row_id"].filter(pc.starts_with(rows["row_id"], prefix)).to_pylist()
        return ids

    def answers(self, stage: str, unit: Unit, row_id: str) -> list[Answer]:
        """A language model's responses about a row at a stage, oldest first.

        Identical requests of several rows of a unit are sent once, and recorded under the first
        of these rows.
        """
        mine: list[dict[str, Any]] = []
        #: The answer that a rejection is about, by its key: the last one before it.
        latest: dict[str, dict[str, Any]] = {}
        for record in read_records(self.storage, responses_folder(stage, unit.unit_id)):
            if "rejected" in record:
                latest.get(record["rejected"], {})["is_rejected"] = True
            elif "text" in record or "malformed" in record:
                latest[record["key"]] = record
                if record["row_id"] == row_id:
                    mine.append(record)
        return [_answer(stage, record, "is_rejected" in record) for record in mine]

    def driver_is_gone(self) -> bool:
        """Whether the ledger says ``running`` but the process that ran it is known to be dead."""
        if self.ledger.status != "running":
            return False
        owner = orjson.loads(self.storage.read_bytes(RUN_LOCK) or b"{}")
        if not self.storage.is_local:
            return time.time() - float(owner.get("heartbeat", 0)) > 60
        if owner.get("host") != socket.gethostname():
            return False
        try:
            os.kill(int(owner["pid"]), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False


def _in_threads(do: Callable[[Unit], _T], units: Iterable[Unit]) -> Iterator[tuple[Unit, _T]]:
    """Each unit with the result of `do`, in order; a few are processed at the same time."""
    waiting = iter(units)
    with ThreadPoolExecutor(_THREADS) as threads:
        # In bounded batches: a caller that stops early pays for few further units.
        while batch := list(islice(waiting, 4 * _THREADS)):
            yield from zip(batch, threads.map(do, batch), strict=True)


def _answer(stage: str, record: dict[str, Any], rejected: bool) -> Answer:
    malformed, sent = record.get("malformed"), str(record.get("thinking") or "")
    thinking, text = split_thinking(str(record.get("text", "")), closing_only=not sent)
    return Answer(
        stage=stage,
        model=str(record.get("model", "")),
        text=text if malformed is None else str(malformed),
        thinking="\n\n".join(filter(None, (sent, thinking))),
        finish_reason=record.get("finish_reason"),
        prompt_tokens=int(record.get("prompt_tokens", 0)),
        completion_tokens=int(record.get("completion_tokens", 0)),
        cost_usd=float(record.get("cost_usd", 0.0)),
        attempts=int(record.get("attempts", 1)),
        rejected=rejected,
        malformed=malformed is not None,
    )


def text_columns(reader: RunReader, schema: pa.Schema) -> list[str]:
    """The text columns to show: those mapped in the configuration, else the source's first ones.

    Args:
        reader: the run.
        schema: the columns to choose from.
    """
    strings = [field.name for field in schema if is_text(field.type)]
    sources = [reader.config.get("source"), *(reader.config.get("sources") or {}).values()]
    mappings = [source.get("columns") for source in sources if isinstance(source, dict)]
    wanted = list(dict.fromkeys(str(name) for mapped in mappings for name in mapped or ()))
    if mapped_columns := [name for name in wanted if name in strings]:
        return mapped_columns
    first = reader.schema(reader.segments[0]).names if reader.segments else []
    return [name for name in first if name in strings and name not in _NOT_DATA][:_TEXTS]
