from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.made_qa_run import made_qa_run

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.rows import with_envelope
from ray_pipeline.core.storage import Storage
from ray_pipeline.report import write_report
from ray_pipeline.rundir import parts
from ray_pipeline.rundir.layout import part_of, part_path
from ray_pipeline.rundir.parts import (
    DamagedPart,
    OpenedParts,
    open_part,
    read_rows,
    write_part,
)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was opened."""
    counts: Counter[str] = Counter()
    original = Storage.open

    def count(self: Storage, path: str) -> Any:
        counts[path] += 1
        return original(self, path)

    monkeypatch.setattr(Storage, "open", count)
    return counts


def write(storage: Storage, path: str, number: int) -> pa.Table:
    texts = [f"text {i} of {number} rows" for i in range(number)]
    rows = with_envelope(pa.table({"text": texts}), [f"{i:032x}" for i in range(number)])
    write_part(storage, path, rows, fingerprint="f", input_digest="i", accounts=[])
    return rows


@pytest.mark.parametrize("number", [0, 3, 200_000])
def test_a_part_holds_what_was_written(tmp_path: Path, number: int) -> None:
    storage, path = Storage(str(tmp_path)), part_path("stages/01-read", "u1")
    rows = write(storage, path, number)
    part = open_part(storage, path)
    assert part is not None
    assert part.is_in_memory == (number < 200_000)
    assert part.rows().equals(rows) and part.schema == rows.schema and part.info.rows == number
    assert part.rows(["status", "text"]).equals(rows.select(["status", "text"]))
    with pytest.raises(RunError, match="it has no column"):
        part.rows(["txt"])


def test_a_part_that_is_gone_is_named(tmp_path: Path) -> None:
    path = part_path("stages/01-read", "u1")
    assert part_of(path) == ("stages/01-read", "u1")
    with pytest.raises(DamagedPart, match=r"part-u1\.parquet is missing: run again: its unit is"):
        read_rows(Storage(str(tmp_path)), path)


def test_the_report_opens_each_part_once(tmp_path: Path, opened: Counter[str]) -> None:
    run = made_qa_run(str(tmp_path), 100, 20)
    opened.clear()
    write_report(run.storage)
    read = {path: number for path, number in opened.items() if "/rows/" in path}
    assert len(read) >= len(run.units)
    assert set(read.values()) == {1}


def test_what_is_kept_of_opened_parts_is_bounded(
    tmp_path: Path, opened: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_PARTS_KEPT", 2)
    monkeypatch.setattr(parts, "_INFOS_KEPT", 3)
    storage = Storage(str(tmp_path))
    paths = [part_path("stages/01-read", f"u{i}") for i in range(5)]
    for path in paths:
        write(storage, path, 2)
    kept = OpenedParts(storage)
    for path in paths:
        assert kept.open(path) is not None
    opened.clear()
    assert all(kept.info(path) is not None for path in paths[2:]) and not opened
    assert all(kept.open(path) is not None for path in paths[3:]) and not opened
    assert kept.info(paths[0]) is not None and opened == {paths[0]: 1}
    assert kept.open("stages/01-read/rows/part-none.parquet") is None
