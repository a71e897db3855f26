"""One unit at one segment, without a cluster: what it reuses, and how often it opens a file."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.rows import fail, with_envelope
from ray_pipeline.core.storage import Storage
from ray_pipeline.core.tables import Tables
from ray_pipeline.engine.segments import Segment
from ray_pipeline.engine.unit import (
    FromSegment,
    Receipt,
    SegmentJob,
    UnitState,
    reusable,
    run_unit,
)
from ray_pipeline.rundir.account import StageAccount
from ray_pipeline.rundir.layout import decisions_path, part_path
from ray_pipeline.rundir.parts import DamagedPart, write_part
from ray_pipeline.rundir.units import Unit
from ray_pipeline.stage import DecideStage, MapStage

UNIT = Unit("u1", "rows.jsonl", "jsonl", "file", 0, 0, 3)
UPSTREAM, OWN = "stages/01-read", "stages/02-mark"


class Mark(MapStage):
    name = "mark"

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        raise NotImplementedError


class Decide(DecideStage):
    name = "mark"

    def keys(self, rows: pa.Table) -> pa.Table:
        raise NotImplementedError

    def decide(self, keys: Tables) -> Tables:
        raise NotImplementedError


def mark(state: UnitState, rows: pa.Table, start: str | None) -> tuple[pa.Table, list[Any]]:
    """Fails the row ``b`` unless it is tried again."""
    is_bad = pc.and_(pc.equal(rows["text"], "b"), start is None)
    out = fail(rows, is_bad, "toy:b: it is b", "mark")
    return out, [StageAccount.of("mark", rows, out)]


@pytest.fixture
def job(tmp_path: Path) -> SegmentJob:
    storage = Storage(str(tmp_path))
    rows = with_envelope(pa.table({"text": ["a", "b", "c"]}), ["1", "2", "3"])
    read = [StageAccount.of("read", rows, rows)]
    write_part(storage, part_path(UPSTREAM, "u1"), rows,
               fingerprint="read", input_digest="u1", accounts=read)  # fmt: skip
    stage = Mark.__new__(Mark)  # it has nothing to configure
    segment = Segment(2, "mark", (stage,), ("mark-1",), False, "mark-1")
    return SegmentJob(
        storage, segment, FromSegment(storage, UPSTREAM), rows.schema, {}, {}, 0, unit_rows=3
    )


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every file that is opened for reading from now on."""
    paths: list[str] = []
    for name in ("open", "read_bytes"):
        original = getattr(Storage, name)

        def note(self: Storage, path: str, original: Any = original) -> Any:
            paths.append(path)
            return original(self, path)

        monkeypatch.setattr(Storage, name, note)
    return paths


def done(job: SegmentJob) -> Receipt:
    """What a worker does with a unit."""
    state = UnitState(job, UNIT)
    return reusable(state) or run_unit(state, mark)


def with_fingerprint(job: SegmentJob, fingerprint: str, stage: Any = None) -> SegmentJob:
    stages = job.segment.stages if stage is None else (stage,)
    return replace(job, segment=replace(job.segment, fingerprint=fingerprint, stages=stages))


def test_a_unit_opens_each_file_once(job: SegmentJob, opened: list[str]) -> None:
    both = [part_path(OWN, "u1"), part_path(UPSTREAM, "u1")]
    assert not done(job).reused and opened == both
    opened.clear()
    assert done(job).reused and opened == both
    opened.clear()
    changed = with_fingerprint(job, "mark-2")
    assert not done(changed).reused and opened == both
    opened.clear()
    assert not done(replace(changed, retry=True)).reused and opened == both


def test_a_unit_that_is_decided_on_reads_its_decisions_once(
    job: SegmentJob, opened: list[str]
) -> None:
    job = with_fingerprint(job, "decide", Decide.__new__(Decide))
    path = decisions_path(OWN, "u1")
    assert not done(job).reused and opened.count(path) == 1 and len(opened) == 3
    assert done(job).reused
    # Other decisions make it another unit.
    job.storage.write_bytes(path, b"decisions")
    opened.clear()
    state = UnitState(job, UNIT)
    assert state.decisions == b"decisions" and reusable(state) is None
    assert not done(job).reused and done(job).reused


def test_retry_runs_the_failed_rows_again_and_only_those(job: SegmentJob) -> None:
    (account,) = done(job).accounts
    assert (account.kept, account.failed, account.reasons) == (2, 1, {"toy:b": 1})
    assert UnitState(job, UNIT).failed_before == ["2"]
    (account,) = done(replace(job, retry=True)).accounts
    assert (account.rows_in, account.kept, account.failed, account.reasons) == (3, 3, 0, {})
    part = UnitState(job, UNIT).valid_part
    assert part is not None
    assert part.rows().to_pylist()[1] == {
        "text": "b", "row_id": "2", "parent_id": None, "status": "kept", "stage": None,
        "reason": None,
    }  # fmt: skip
    assert done(replace(job, retry=True)).reused


def test_other_rows_upstream_make_it_another_unit(job: SegmentJob) -> None:
    assert not done(job).reused
    rows = with_envelope(pa.table({"text": ["a", "c"]}), ["1", "3"])
    write_part(job.storage, part_path(UPSTREAM, "u1"), rows,
               fingerprint="read", input_digest="u1", accounts=[])  # fmt: skip
    assert not done(job).reused and done(job).reused


def test_rows_that_are_gone_or_torn_upstream_are_named(job: SegmentJob) -> None:
    path = part_path(UPSTREAM, "u1")
    damages = {
        None: "is missing: run again",
        b"": "is damaged: it is empty. Delete it and run again",
        b"PAR1 torn": "is damaged: its end is missing or is not that of a Parquet file",
    }
    for content, message in damages.items():
        job.storage.delete(path)
        if content is not None:
            job.storage.write_bytes(path, content)
        with pytest.raises(DamagedPart, match=f"part-u1.parquet {message}"):
            done(job)


def test_a_committed_part_that_is_damaged_is_made_again(job: SegmentJob) -> None:
    assert not done(job).reused
    path = UnitState(job, UNIT).path
    whole = job.storage.read_bytes(path)
    assert whole is not None
    flipped = bytearray(whole)
    flipped[40] ^= 4  # in the pages: its footer still says that all is well
    for content, how in ((bytes(flipped), "another checksum"), (whole[:-9], "its end is missing")):
        job.storage.write_bytes(path, content)
        receipt = done(job)
        assert not receipt.reused
        assert receipt.damage is not None and receipt.damage.startswith(f"{path} was damaged: ")
        assert how in receipt.damage
        assert job.storage.read_bytes(path) == whole
    assert done(job).damage is None


def test_an_account_that_does_not_balance_commits_nothing(job: SegmentJob) -> None:
    def lose(state: UnitState, rows: pa.Table, start: str | None) -> tuple[pa.Table, list[Any]]:
        return rows, [StageAccount("mark", rows_in=3, kept=2)]

    with pytest.raises(RunError, match="does not balance"):
        run_unit(UnitState(job, UNIT), lose)
    assert UnitState(job, UNIT).committed is None
