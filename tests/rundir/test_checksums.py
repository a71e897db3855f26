"""Damage of parts, bit by bit: all of it is noticed, and what is whole is read as it was written.

``SOAK_EXAMPLES=10000 pytest tests/rundir/test_checksums.py`` flips ten thousand bits of each part.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.soak import EXAMPLES

from ray_pipeline.core.rows import with_envelope
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir import checksums
from ray_pipeline.rundir.account import StageAccount
from ray_pipeline.rundir.checksums import Damaged, checked_json, json_with_checksum
from ray_pipeline.rundir.layout import part_path
from ray_pipeline.rundir.parts import DamagedPart, open_part, write_part

PATH = part_path("stages/01-read", "u1")
NARROW = ["row_id", "status"]


def table(rows: int, vectors: int = 0) -> pa.Table:
    """Rows of texts, numbers, labels and nested values, some of them null."""
    random_ = random.Random(rows)
    words = [f"word{i}" for i in range(2_000)]
    columns: dict[str, Any] = {
        "question": [" ".join(random_.choices(words, k=9)) for _ in range(rows)],
        "answer": [random_.choice([None, "7", "71", "no"]) for _ in range(rows)],
        "score": [random_.random() for _ in range(rows)],
        "tags.of": [[{"tag": random_.choice("abc"), "n": i}] for i in range(rows)],
    }
    if vectors:
        values = np.random.default_rng(1).random(rows * vectors, np.float32)
        columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(values), vectors)
    return with_envelope(pa.table(columns), [f"{i:032x}" for i in range(rows)])


def written(folder: Path, rows: pa.Table) -> Storage:
    storage = Storage(str(folder))
    account = StageAccount("read", rows_in=rows.num_rows, kept=rows.num_rows)
    write_part(storage, PATH, rows, fingerprint="f", input_digest="u1", accounts=[account])
    return storage


@pytest.fixture(scope="module", params=["small", "large", "empty"])
def part(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A part on storage, with its rows and its bytes."""
    rows = {"small": table(60), "large": table(500, 64), "empty": table(60).slice(0, 0)}
    of_kind = rows[request.param]
    storage = written(tmp_path_factory.mktemp("parts"), of_kind)
    data = storage.read_bytes(PATH)
    assert data is not None and (len(data) > checksums.READ_AT_ONCE) == (request.param == "large")
    return storage, of_kind, data


@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_flipped_bit_is_noticed_or_is_not_in_what_is_read(part: Any, at: float, bit: int) -> None:
    storage, rows, data = part
    flipped = bytearray(data)
    flipped[int(at * len(data))] ^= 1 << bit
    storage.write_bytes(PATH, bytes(flipped))
    with pytest.raises(DamagedPart):
        check(storage)
    for columns in (rows.column_names, NARROW):
        try:
            read = opened(storage).rows(columns)
        except DamagedPart:
            continue
        assert columns == NARROW and read.equals(rows.select(columns))


def opened(storage: Storage) -> Any:
    part = open_part(storage, PATH)
    assert part is not None
    return part


def check(storage: Storage) -> None:
    opened(storage).verify()


@given(length=st.floats(0, 1, exclude_max=True))
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_part_that_is_cut_off_is_noticed(part: Any, length: float) -> None:
    storage, _, data = part
    storage.write_bytes(PATH, data[: int(length * len(data))])
    with pytest.raises(DamagedPart):
        check(storage)


def test_what_is_whole_is_read_as_it_was_written(
    part: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, rows, data = part
    storage.write_bytes(PATH, data)
    monkeypatch.setattr(checksums, "_HOLE", 100)  # columns are read apart
    monkeypatch.setattr(checksums, "_PIECE", 1_000)
    check(storage)
    for columns in (None, NARROW, ["tags.of"], ["score", "row_id"], []):
        read = opened(storage).rows(columns)
        assert read.equals(rows if columns is None else rows.select(columns)) or not columns
    # Any reader of Parquet reads it, and does not see the checksums.
    assert pq.read_table(pa.BufferReader(data)).replace_schema_metadata(None).equals(rows)


def test_every_byte_is_in_a_checksum(tmp_path: Path) -> None:
    """Row groups, dictionaries and columns lie in any order: the stretches leave nothing out."""
    rows = pa.concat_tables([table(9)] * 3)
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, row_group_size=10, compression="zstd", write_page_index=True)
    data = checksums.with_checksums(sink.getvalue())
    for position in range(0, len(data), 11):
        (tmp_path / "file").write_bytes(
            data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        )
        with pa.OSFile(str(tmp_path / "file")) as file:
            try:
                checked = checksums.CheckedFile(file)
            except Damaged:
                continue
            if checked.has_checksums:
                with pytest.raises(Damaged):
                    checked.verify()


def test_parts_of_earlier_versions_have_no_checksums_and_are_read(tmp_path: Path) -> None:
    rows, storage = table(60), Storage(str(tmp_path))
    storage = written(tmp_path, rows)
    metadata = pq.read_metadata(storage.local_path(PATH)).metadata
    footer = metadata[b"ray_pipeline"]
    old = footer.replace(b'"unit_id":"u1","checksums":"xxh3",', b"")
    assert old != footer
    pq.write_table(rows.replace_schema_metadata({b"ray_pipeline": old}), storage.local_path(PATH))
    part = opened(storage)
    part.verify()
    assert part.rows().equals(rows) and part.rows(NARROW).equals(rows.select(NARROW))
    assert not part.info.has_checksums and part.info.unit_id is None


def test_a_part_without_the_checksums_that_its_footer_names_is_damaged(tmp_path: Path) -> None:
    storage = written(tmp_path, table(60))
    read = pq.read_table(storage.local_path(PATH))
    pq.write_table(read, storage.local_path(PATH))  # as another program does
    with pytest.raises(DamagedPart, match="its checksums are gone"):
        opened(storage)


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.floats() | st.text(max_size=5)))
@settings(max_examples=EXAMPLES, deadline=None)
def test_json_with_a_checksum_comes_back_and_damage_is_noticed(data: dict[str, Any]) -> None:
    data = {k: v for k, v in data.items() if not isinstance(v, int) or abs(v) < 2**53}
    data.pop("checksum", None)
    raw = json_with_checksum(data)
    read = checked_json(raw)
    assert list(read) == list(data)
    for position in range(0, len(raw), 3):
        flipped = bytearray(raw)
        flipped[position] ^= 2
        try:
            other = checked_json(bytes(flipped))
        except Damaged:
            continue
        # The name of the checksum itself is damaged: the content is what it was.
        other = {name: value for name, value in other.items() if name in read}
        assert other == read
