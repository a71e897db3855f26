"""Stored rows: the held-out rows of the source, without their paraphrases."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from ray_pipeline.core.rows import with_envelope
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.parts import write_part
from ray_pipeline.rundir.stored_rows import StoredRows

SPLITS = ["test", "test", "test", "train", "train", "test"]


def stored(folder: Path, versions: list[str | None] | None) -> StoredRows:
    storage = Storage(str(folder))
    data = pa.table({"split": SPLITS, "number": range(6)})
    if versions is not None:
        data = data.append_column("version", pa.array(versions, pa.string()))
    rows = with_envelope(data, [f"row{i}" for i in range(6)])
    write_part(storage, "part.parquet", rows, fingerprint="f", input_digest="i", accounts=[])
    return StoredRows(storage, ("part.parquet",), "digest")


def originals(rows: StoredRows) -> list[int]:
    table = rows.originals(["number"], split="test")
    assert table.column_names == ["number"]
    numbers: list[int] = table["number"].to_pylist()
    return numbers


def test_paraphrases_are_left_out(tmp_path: Path) -> None:
    versions = ["original", "formal", None, "original", "casual", "typo"]
    assert originals(stored(tmp_path, versions)) == [0, 2]


def test_without_versions_all_rows_are_originals(tmp_path: Path) -> None:
    assert originals(stored(tmp_path, None)) == [0, 1, 2, 5]


def test_where_all_are_paraphrases_they_are_all_there_is(tmp_path: Path) -> None:
    versions = ["formal", "formal", "casual", "original", None, "formal"]
    assert originals(stored(tmp_path, list(versions))) == [0, 1, 2, 5]
