from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.checksums import DamagedFile, with_checksums
from ray_pipeline.rundir.decisions import are_decided, mark_decided, stored_decisions
from ray_pipeline.rundir.layout import decisions_path

FOLDER = "stages/02-first"
MARK = f"{FOLDER}/decisions/done.json"
ONE, TWO = (decisions_path(FOLDER, unit) for unit in ("u1", "u2"))
IDENTITY = "0123456789abcdef" * 2
DECISIONS = pa.table({"row": [1, 4], "status": ["dropped", None]})


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """Decisions on the rows of two units."""
    storage = Storage(str(tmp_path))
    for path, rows in ((ONE, DECISIONS), (TWO, DECISIONS.slice(1))):
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink)
        storage.write_bytes(path, with_checksums(sink.getvalue()))
    mark_decided(storage, FOLDER, IDENTITY)
    return storage


def decided(storage: Storage, identity: str = IDENTITY) -> tuple[bool, list[str]]:
    said: list[str] = []
    return are_decided(storage, FOLDER, identity, said.append), said


def test_decisions_that_are_what_was_written_are_not_made_again(storage: Storage) -> None:
    assert decided(storage) == (True, [])
    assert decided(storage, "f" * 32) == (False, [])  # of other rows: nothing is wrong with them
    storage.delete(MARK)
    assert decided(storage) == (False, [])


def test_marks_of_earlier_versions_are_believed(storage: Storage) -> None:
    storage.write_bytes(MARK, IDENTITY.encode())
    assert decided(storage) == (True, [])
    assert decided(storage, "f" * 32) == (False, [])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda s: s.delete(TWO), [f"{TWO} is missing. The stage decides again"]),
        (
            lambda s: s.write_bytes(ONE, s.read_bytes(TWO) or b""),
            [f"{ONE} is damaged: it is not what was written. The stage decides again"],
        ),
        (
            lambda s: s.write_bytes(MARK, (s.read_bytes(MARK) or b"").replace(b"u1", b"u3")),
            [f"{MARK} is damaged: it has another checksum than when it was written. The stage d"],
        ),
    ],
)
def test_damage_is_named_and_the_stage_decides_again(
    storage: Storage, damage: Callable[[Storage], None], said: list[str]
) -> None:
    damage(storage)
    whole, lines = decided(storage)
    assert not whole
    assert [line[: len(said[0])] for line in lines] == said


def test_what_is_read_of_decisions_is_verified(storage: Storage) -> None:
    data = storage.read_bytes(ONE) or b""
    assert stored_decisions(storage, ONE, data).equals(DECISIONS)
    for at in range(0, len(data), 9):
        flipped = data[:at] + bytes([data[at] ^ 2]) + data[at + 1 :]
        try:
            read = stored_decisions(storage, ONE, flipped)
        except DamagedFile as error:
            assert f"{ONE} is damaged: " in str(error) and "the stage decides again" in str(error)
        else:
            assert read.equals(DECISIONS), at  # the mark of the checksums is gone: the rows are not
