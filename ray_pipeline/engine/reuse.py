"""Finds the segments of a run directory that are complete; shared by `plan` and `run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ray_pipeline.core.hashing import set_digest
from ray_pipeline.core.storage import Storage
from ray_pipeline.engine.artifacts import Artifact
from ray_pipeline.engine.prepare import Prepared
from ray_pipeline.engine.segments import Segment
from ray_pipeline.rundir.checksums import DamagedFile
from ray_pipeline.rundir.inspection import FileDamage, InspectedParts, inspect_parts, lines, unlike
from ray_pipeline.rundir.layout import DONE, SOURCE
from ray_pipeline.rundir.ledger import Done
from ray_pipeline.rundir.units import Unit
from ray_pipeline.stage import DecideStage


class RunState:
    """The segments of a run, and how many of them, from the first on, are complete.

    Args:
        segments: all segments, in order.
        unit_ids: the units of the source.

    Attributes:
        segments: all segments. The fingerprints of those after an artifact include its identity,
            so they change when it becomes complete.
        complete: the complete segments, with their ``done.json``.
        input_digest: identity of the rows that the next segment reads.
        rows_digest: identity of all rows that the last complete segment with rows left.
        damages: what is wrong with the parts of complete segments, by the segment's folder and the
            unit. These units have to be made again before anything reads them.
        notes: what the user should know of the files that were found, a sentence each.
    """

    def __init__(self, segments: Sequence[Segment], unit_ids: Sequence[str]) -> None:
        self.segments = list(segments)
        self.complete: list[tuple[Segment, Done]] = []
        self.input_digest = self.rows_digest = set_digest(unit_ids)
        self.damages: dict[str, dict[str, FileDamage]] = {}
        self.notes: list[str] = []

    @property
    def remaining(self) -> list[Segment]:
        """The segments that are not complete."""
        return self.segments[len(self.complete) :]

    def add(self, done: Done) -> None:
        """Mark the next segment as complete."""
        segment = self.remaining[0]
        self.complete.append((segment, done))
        self.input_digest = done.digest
        if segment.has_rows:
            self.rows_digest = done.digest
        else:
            position = len(self.complete)
            downstream = [later.after(done.digest) for later in self.segments[position:]]
            self.segments[position:] = downstream

    def news(self) -> list[str]:
        """What the user is told of files that are not what was written, a line each."""
        damages = [d for of_segment in self.damages.values() for d in of_segment.values()]
        told = [*self.notes, *lines(damages)]
        if damages:
            units = "a unit is" if len(damages) == 1 else f"{len(damages)} units are"
            told.append(
                f"{units} made again, with the stored answers where a language model was asked"
            )
        return told

    def upstream_of(self, segment: Segment) -> Segment:
        """The segment whose rows ``segment`` reads. The first segment has none.

        Raises:
            IndexError: for the first segment, which reads the source.
        """
        return [s for s in self.segments if s.index < segment.index and s.has_rows][-1]


def run_state(storage: Storage, prepared: Prepared, retry: bool = False) -> RunState:
    """Find the segments that are complete in a run directory, up to the first that is not.

    Their parts are compared with what ``done.json`` and their own footers say. A complete segment
    stays complete when some of its parts are damaged: see `RunState.damages`.

    Args:
        storage: the run directory, which need not exist.
        prepared: the checked run.
        retry: treat segments with failed rows as incomplete, except for rows that could not be
            read from the source: these would fail again.
    """
    units = prepared.survey.units
    state = RunState(prepared.segments, [unit.unit_id for unit in units])
    #: The digest of each unit's rows, as the next segment reads them.
    digests = {unit.unit_id: unit.unit_id for unit in units}
    while state.remaining:
        segment = state.remaining[0]
        try:
            done = completed(storage, segment, state.input_digest)
        except DamagedFile as error:
            state.notes.append(str(error))
            break
        if done is None:
            break
        if not segment.has_rows and (damages := _damages_of(storage, segment)):
            state.notes += [*damages, f"what {segment.name} makes is made again"]
            break
        if retry and any(a.failed for a in done.accounts if a.name != SOURCE):
            break
        if segment.has_rows:
            parts = _inspected(storage, segment, units, digests)
            state.notes += [
                f"{path} is no part of this run: it is not read" for path in parts.strangers
            ]
            how = unlike(done, parts, [unit.unit_id for unit in units])
            if how is not None:
                state.notes.append(f"{segment.folder}/{DONE} {how}: its units are looked at again")
                break
            if parts.damages:
                state.damages[segment.folder] = parts.damages
            digests = {unit_id: info.digest for unit_id, info in parts.infos.items()}
        state.add(done)
    return state


def completed(storage: Storage, segment: Segment, input_digest: str) -> Done | None:
    """The ``done.json`` of a segment, if it is complete for these stages and this input.

    Raises:
        DamagedFile: the file is not what was written.
    """
    done = Done.load(storage, segment.folder)
    if done is None:
        return None
    if (done.fingerprint, done.input_digest) != (segment.fingerprint, input_digest):
        return None
    if not segment.has_rows and not Artifact(storage, segment).is_there():
        return None
    return done


def still_made(storage: Storage, segment: Segment, state: RunState) -> Done | None:
    """The ``done.json`` of the next segment, which makes files, if these are of the same rows.

    None also where a file is damaged. The input's digest does not tell: that of a stage before it
    which is limited to some sources stays when rows of others change.
    """
    try:
        done = completed(storage, segment, state.input_digest)
    except DamagedFile:
        return None
    if done is None or done.rows_digest != state.rows_digest:
        return None
    return None if _damages_of(storage, segment) else done


def _damages_of(storage: Storage, segment: Segment) -> list[str]:
    """What is wrong with the files of a segment that makes files."""
    try:
        return Artifact(storage, segment).damages()
    except DamagedFile:
        return []  # `verify` says so: the files are believed as those of an earlier version are


def _inspected(
    storage: Storage, segment: Segment, units: Sequence[Unit], digests: Mapping[str, str]
) -> InspectedParts:
    """The parts of a segment, compared with those of the segment before it."""
    # What a unit's decisions were made of is in its digest, too: only the unit itself knows it.
    decided = {u.unit_id for u in units if segment.for_source(u.source).kind is DecideStage}

    def input_of(unit_id: str) -> str | None:
        return None if unit_id in decided else digests.get(unit_id)

    unit_ids = [unit.unit_id for unit in units]
    return inspect_parts(storage, segment.folder, segment.fingerprint, unit_ids, input_of)
