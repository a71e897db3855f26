"""Which segments of a run directory are complete: the one answer that `plan` and `run` share."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from ray_pipeline.core.hashing import set_digest
from ray_pipeline.core.rows import with_envelope
from ray_pipeline.core.storage import Storage
from ray_pipeline.engine import reuse
from ray_pipeline.engine.artifacts import Artifact
from ray_pipeline.engine.reuse import RunState, run_state, still_made
from ray_pipeline.engine.segments import Segment
from ray_pipeline.rundir.account import StageAccount
from ray_pipeline.rundir.checksums import DamagedFile
from ray_pipeline.rundir.layout import part_path
from ray_pipeline.rundir.ledger import Done
from ray_pipeline.rundir.manifest import recorded_files
from ray_pipeline.rundir.models import get_model
from ray_pipeline.rundir.parts import write_part
from ray_pipeline.rundir.units import Unit
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
        place.storage.write_bytes("models/made/config.json", b"{}")
        place.storage.write_bytes("models/made/weights", b"1234")
        return {"loss": 0.5}


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
    storage.write_bytes("metrics.json", b'{"makes": {"loss": 0.5}}')
    state = RunState(segments(), UNITS)
    digests: dict[str, str] = {}
    while state.remaining:
        segment = state.remaining[0]
        accounts, digest = [StageAccount(segment.name, rows_in=2, kept=2)], "digest of the model"
        if segment.has_rows:
            digests = {unit: commit(storage, segment, unit, digests.get(unit)) for unit in UNITS}
            digest = set_digest(f"{unit}:{digest}" for unit, digest in digests.items())
        done = Done(segment.fingerprint, state.input_digest, digest, 2, accounts)
        done.save(storage, segment.folder)
        state.add(done)
    return storage


def commit(storage: Storage, segment: Segment, unit: str, input_digest: str | None = None) -> str:
    """Write a unit's part with one row; the digest of the row."""
    text = f"{unit} after {segment.name}"
    rows = with_envelope(pa.table({"text": [text]}), [unit.encode().hex()])
    account = StageAccount(segment.name, rows_in=1, kept=1)
    info = write_part(
        storage,
        part_path(segment.folder, unit),
        rows,
        fingerprint=segment.fingerprint,
        input_digest=input_digest or unit,
        accounts=[account],
    )
    return info.digest


def found(storage: Storage, units: list[str] = UNITS, retry: bool = False) -> RunState:
    survey = SimpleNamespace(units=[Unit(unit, "", "", "", 0, 0, 1) for unit in units])
    prepared: Any = SimpleNamespace(segments=segments(), survey=survey)
    state = run_state(storage, prepared, retry)
    assert [segment.index for segment in state.segments] == [1, 2, 3, 4]
    return state


def complete(storage: Storage, units: list[str] = UNITS, retry: bool = False) -> list[int]:
    state = found(storage, units, retry)
    assert not state.damages
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
    change(storage, 2, input_digest="other")
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


def test_retry_ends_at_the_first_failed_row_that_a_stage_left(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the parts held them, which are not compared where only the stage is looked at.
    monkeypatch.setattr(reuse, "unlike", lambda *_: None)
    source = StageAccount("source", rows_in=2, kept=1, failed=1)
    change(storage, 1, accounts=[source, StageAccount("stage-1", rows_in=1, kept=1)])
    assert complete(storage, retry=True) == [1, 2, 3, 4]
    change(storage, 2, accounts=[StageAccount("stage-2", rows_in=1, failed=1)])
    assert complete(storage, retry=True) == [1]
    assert complete(storage) == [1, 2, 3, 4]


def test_what_an_earlier_version_wrote_is_read(storage: Storage) -> None:
    path = f"{segments()[0].folder}/done.json"
    written = json.loads(storage.read_bytes(path) or b"")
    del written["identities"], written["checksum"]
    storage.write_bytes(path, json.dumps({**written, "unknown": {}}).encode())
    assert complete(storage) == [1, 2, 3, 4]


def part(segment: int, unit: str) -> str:
    return part_path(segments()[segment - 1].folder, unit)


def write_over(storage: Storage, path: str, data: bytes | None) -> None:
    assert data is not None
    storage.write_bytes(path, data)


def test_damaged_parts_are_named_and_only_their_units_are_made_again(storage: Storage) -> None:
    whole = {path: storage.read_bytes(path) or b"" for path in storage.list("", recursive=True)}
    mine, others, before = part(2, "u2"), part(2, "u1"), part(1, "u2")
    flipped = bytearray(whole[mine])
    flipped[30] ^= 1
    damages = {
        whole[others]: "is damaged: it holds the rows of unit u1",
        whole[before]: "is damaged: it was made by other stages, or by another configuration",
        whole[mine][:-4]: "is damaged: its end is missing",
        b"": "is damaged: it is empty",
        bytes(flipped): "is damaged: bytes 0 to",
    }
    for data, what in damages.items():
        storage.write_bytes(mine, data)
        state = found(storage)
        # The stage stays complete, and so do those after it.
        assert [segment.index for segment, _ in state.complete] == [1, 2, 3, 4]
        ((folder, units),) = state.damages.items()
        assert folder == segments()[1].folder and list(units) == ["u2"]
        damage, made_again = state.news()
        assert damage.startswith(f"{mine} {what}")
        assert made_again.startswith("a unit is made again, with the stored answers")
    storage.delete(mine)
    storage.delete(part(4, "u1"))
    assert found(storage).news() == [
        f"{mine} is missing",
        f"{part(4, 'u1')} is missing",
        "2 units are made again, with the stored answers where a language model was asked",
    ]


def test_a_part_of_an_earlier_input_of_its_unit_is_damage(storage: Storage) -> None:
    commit(storage, segments()[1], "u2", "other rows")
    assert found(storage).news()[0] == (
        f"{part(2, 'u2')} is damaged: it was made from other rows than those of its unit"
    )


def test_parts_that_are_whole_and_not_those_of_the_stage_are_looked_at_again(
    storage: Storage,
) -> None:
    """As after a copy of a single part from a backup of another attempt."""
    change(storage, 2, digest="of other rows")
    state = found(storage)
    assert [segment.index for segment, _ in state.complete] == [1]
    folder = segments()[1].folder
    told = f"{folder}/done.json lists other rows than its parts hold: its units are looked at again"
    assert state.news() == [told]
    done = Done.load(storage, segments()[0].folder)
    assert done is not None
    change(storage, 1, accounts=[StageAccount("stage-1", rows_in=3, kept=3)])
    assert "done.json counts other rows than its parts do" in found(storage).news()[0]


def test_files_that_a_stage_made_are_compared_with_what_it_wrote(storage: Storage) -> None:
    segment = segments()[2]
    artifact = Artifact(storage, segment)
    storage.write_bytes("models/other/weights", b"of another stage")
    artifact.make(segments()[1].folder, UNITS, "digest", lambda text: None)
    done = Done.load(storage, segment.folder)
    assert done is not None
    assert complete(storage) == [1, 2, 3, 4]
    state = RunState(segments(), UNITS)
    for _, its_done in found(storage).complete[:2]:
        state.add(its_done)
    assert still_made(storage, segment, state) is None  # of an earlier version
    change(storage, 3, rows_digest=state.rows_digest)
    assert still_made(storage, segment, state) == replace(done, rows_digest=state.rows_digest)
    change(storage, 3, rows_digest="of other rows")
    assert still_made(storage, segment, state) is None
    change(storage, 3, rows_digest=state.rows_digest)
    recorded = recorded_files(storage)
    mine = {path for path, file in recorded.items() if file.stage == segment.stages[0].name}
    assert mine == {"models/made/config.json", "models/made/weights"}
    damages = {b"1235": "is damaged: it has another checksum", b"123": "is damaged: it has 3 bytes"}
    for data, how in damages.items():
        storage.write_bytes("models/made/weights", data)
        looked = found(storage)
        assert [segment.index for segment, _ in looked.complete] == [1, 2]
        assert looked.news()[0].startswith(f"models/made/weights {how}")
        assert looked.news()[1] == f"what {segment.name} makes is made again"
        assert still_made(storage, segment, state) is None
        with pytest.raises(DamagedFile, match=r"made/weights is damaged: .*Run again: the stage"):
            get_model(storage, "made")
    storage.delete("models/made/weights")
    assert found(storage).news()[0] == "models/made/weights is missing"
    artifact.make(segments()[1].folder, UNITS, "digest", lambda text: None)
    assert complete(storage) == [1, 2, 3, 4]
    assert get_model(storage, "made") == str(storage.local_path("models/made"))
    # A list that is damaged itself counts as that of an earlier version, which has none.
    storage.write_bytes("files.json", b"")
    assert complete(storage) == [1, 2, 3, 4]


def test_a_file_of_no_unit_is_told_and_a_torn_mark_of_a_stage_counts_as_none(
    storage: Storage,
) -> None:
    storage.write_bytes(part(1, "u7"), b"")
    assert found(storage).news() == [f"{part(1, 'u7')} is no part of this run: it is not read"]
    storage.delete(part(1, "u7"))
    path = f"{segments()[1].folder}/done.json"
    whole = storage.read_bytes(path) or b""
    for torn in (b"", whole[:20], whole.replace(b'"units": 2', b'"units": 3')):
        storage.write_bytes(path, torn)
        state = found(storage)
        assert [segment.index for segment, _ in state.complete] == [1]
        (told,) = state.news()
        assert f"{path} is damaged: it" in told and "Run again: it is written again" in told


def test_object_storage_is_asked_for_a_listing_and_for_what_was_written_since(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Counter[str]()
    original = Storage.open

    def count(self: Storage, path: str) -> Any:
        opened[path] += 1
        return original(self, path)

    monkeypatch.setattr(Storage, "open", count)
    monkeypatch.setattr(Storage, "is_local", False)
    assert complete(storage) == [1, 2, 3, 4] and not opened
    write_over(storage, part(2, "u2"), storage.read_bytes(part(2, "u1")))
    storage.delete(part(4, "u1"))
    opened.clear()
    assert found(storage).news()[:2] == [
        f"{part(2, 'u2')} is damaged: it holds the rows of unit u1",
        f"{part(4, 'u1')} is missing",
    ]
    assert opened == {part(2, "u2"): 1}
