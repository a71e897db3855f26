"""Which segments of a run directory are complete: the one answer that `plan` and `run` share."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from ray_pipeline.core.hashing import set_digest
from ray_pipeline.core.storage import Storage
from ray_pipeline.engine.reuse import RunState, run_state
from ray_pipeline.engine.segments import Segment
from ray_pipeline.rundir.account import StageAccount
from ray_pipeline.rundir.ledger import Done
from ray_pipeline.stage import ArtifactStage, MapStage

UNITS = ["u1", "u2"]


class Maps(MapStage):
    name = "maps"

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        raise NotImplementedError


class Makes(ArtifactStage):
    name = "makes"
    makes = ("models/made/config.json",)

    def make(self, rows: Any, place: Any) -> dict[str, Any]:
        raise NotImplementedError


def segments() -> list[Segment]:
    kinds = [Maps, Maps, Makes, Maps]
    return [
        Segment(i, f"stage-{i}", (kind.__new__(kind),), (f"print-{i}",), i == 1, f"print-{i}")
        for i, kind in enumerate(kinds, start=1)
    ]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A run directory in which every segment is complete."""
    storage = Storage(str(tmp_path))
    storage.write_bytes("models/made/config.json", b"{}")
    state = RunState(segments(), UNITS)
    while state.remaining:
        segment = state.remaining[0]
        accounts = [StageAccount(segment.name, rows_in=2, kept=2)]
        done = Done(segment.fingerprint, state.input_digest, f"digest-{segment.index}", 2, accounts)
        done.save(storage, segment.folder)
        state.add(done)
    return storage


def complete(storage: Storage, units: list[str] = UNITS, retry: bool = False) -> list[int]:
    survey = SimpleNamespace(units=[SimpleNamespace(unit_id=unit) for unit in units])
    prepared: Any = SimpleNamespace(segments=segments(), survey=survey)
    state = run_state(storage, prepared, retry)
    assert [segment.index for segment in state.segments] == [1, 2, 3, 4]
    return [segment.index for segment, _ in state.complete]


def change(storage: Storage, segment: int, **keys: Any) -> None:
    folder = segments()[segment - 1].folder
    done = Done.load(storage, folder)
    assert done is not None
    Done(**{**vars(done), **keys}).save(storage, folder)


def test_what_is_complete_is_reused_up_to_the_first_that_is_not(storage: Storage) -> None:
    assert complete(storage) == [1, 2, 3, 4]
    storage.delete(f"{segments()[1].folder}/done.json")
    assert complete(storage) == [1]


def test_another_fingerprint_or_other_rows_end_it(storage: Storage) -> None:
    assert complete(storage, ["u1", "u2", "u3"]) == []
    change(storage, 1, digest="other")
    assert complete(storage) == [1]
    change(storage, 1, fingerprint="other")
    assert complete(storage) == []


def test_an_artifact_counts_where_its_files_are(storage: Storage) -> None:
    storage.delete("models/made/config.json")
    assert complete(storage) == [1, 2]


def test_behind_an_artifact_everything_depends_on_it(storage: Storage) -> None:
    change(storage, 3, digest="another model")
    change(storage, 4, input_digest="another model")
    assert complete(storage) == [1, 2, 3]  # the fingerprint of the last one covers the artifact
    state = RunState(segments(), UNITS)
    assert state.input_digest == set_digest(UNITS)
    for digest in ("a", "b", "c"):
        state.add(Done("", "", digest, 2, []))
    (last,) = state.remaining
    assert last.fingerprint == segments()[3].after("c").fingerprint != segments()[3].fingerprint
    assert state.upstream_of(last).index == 2  # an artifact leaves the rows as they are


def test_retry_ends_at_the_first_failed_row_that_a_stage_left(storage: Storage) -> None:
    source = StageAccount("source", rows_in=2, kept=1, failed=1)
    change(storage, 1, accounts=[source, StageAccount("stage-1", rows_in=1, kept=1)])
    assert complete(storage, retry=True) == [1, 2, 3, 4]
    change(storage, 2, accounts=[StageAccount("stage-2", rows_in=1, failed=1)])
    assert complete(storage, retry=True) == [1]
    assert complete(storage) == [1, 2, 3, 4]


def test_what_an_earlier_version_wrote_is_read(storage: Storage) -> None:
    path = f"{segments()[0].folder}/done.json"
    old = (storage.read_bytes(path) or b"").replace(b'"identities": {}', b'"unknown": {}')
    storage.write_bytes(path, old)
    assert b"identities" not in old and complete(storage) == [1, 2, 3, 4]
