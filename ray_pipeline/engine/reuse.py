"""Finds the segments of a run directory that are complete; shared by `plan` and `run`."""

from __future__ import annotations

from collections.abc import Sequence

from ray_pipeline.core.hashing import set_digest
from ray_pipeline.core.storage import Storage
from ray_pipeline.engine.artifacts import Artifact
from ray_pipeline.engine.prepare import Prepared
from ray_pipeline.engine.segments import Segment
from ray_pipeline.rundir.layout import SOURCE
from ray_pipeline.rundir.ledger import Done


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
    """

    def __init__(self, segments: Sequence[Segment], unit_ids: Sequence[str]) -> None:
        self.segments = list(segments)
        self.complete: list[tuple[Segment, Done]] = []
        self.input_digest = set_digest(unit_ids)

    @property
    def remaining(self) -> list[Segment]:
        """The segments that are not complete."""
        return self.segments[len(self.complete) :]

    def add(self, done: Done) -> None:
        """Mark the next segment as complete."""
        segment = self.remaining[0]
        self.complete.append((segment, done))
        self.input_digest = done.digest
        if not segment.has_rows:
            position = len(self.complete)
            downstream = [later.after(done.digest) for later in self.segments[position:]]
            self.segments[position:] = downstream

    def upstream_of(self, segment: Segment) -> Segment:
        """The segment whose rows ``segment`` reads. The first segment has none.

        Raises:
            IndexError: for the first segment, which reads the source.
        """
        return [s for s in self.segments if s.index < segment.index and s.has_rows][-1]


def run_state(storage: Storage, prepared: Prepared, retry: bool = False) -> RunState:
    """Find the segments that are complete in a run directory, up to the first that is not.

    Args:
        storage: the run directory, which need not exist.
        prepared: the checked run.
        retry: treat segments with failed rows as incomplete, except for rows that could not be
            read from the source: these would fail again.
    """
    state = RunState(prepared.segments, [unit.unit_id for unit in prepared.survey.units])
    while state.remaining:
        segment = state.remaining[0]
        done = Done.load(storage, segment.folder)
        if done is None:
            break
        if (done.fingerprint, done.input_digest) != (segment.fingerprint, state.input_digest):
            break
        if retry and any(a.failed for a in done.accounts if a.name != SOURCE):
            break
        if not segment.has_rows and not Artifact(storage, segment).is_there():
            break
        state.add(done)
    return state
