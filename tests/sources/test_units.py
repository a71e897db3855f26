"""Units: the same file gives the same ids, and what is added never shifts what was there."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from support.source_reading import look, read_all, rows_of, write_csv

from ray_pipeline.core.errors import RunError
from ray_pipeline.rundir.units import MOST_UNITS, Marks, default_unit_rows
from ray_pipeline.sources.read import read_unit

ROWS = [(f"question {n}", f"answer\n{n}") for n in range(1000)]


def test_row_ids_do_not_depend_on_the_unit_size(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", ROWS)
    tables = [read_all(look(path, tmp_path, unit_rows=n)) for n in (1, 17, 512, 5000, None)]
    assert all(table.to_pylist() == tables[0].to_pylist() for table in tables)
    assert len(set(tables[0]["row_id"].to_pylist())) == 1000


def test_ids_follow_the_content_not_the_place(tmp_path: Path) -> None:
    one = look(write_csv(tmp_path / "a.csv", ROWS), tmp_path, unit_rows=100)
    two = look(write_csv(tmp_path / "b.csv", ROWS), tmp_path, unit_rows=100)
    assert [u.unit_id for u in one.units] == [u.unit_id for u in two.units]
    three = look(write_csv(tmp_path / "c.csv", ROWS[1:]), tmp_path, unit_rows=100)
    assert not {u.unit_id for u in one.units} & {u.unit_id for u in three.units}


def test_an_added_file_adds_units(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_csv(folder / "m.csv", ROWS)
    before = look(folder, tmp_path, unit_rows=100)
    write_csv(folder / "a.csv", ROWS[:250])
    write_csv(folder / "z.csv", ROWS[:30])
    after = look(folder, tmp_path, unit_rows=100)
    assert len(after.units) == 10 + 3 + 1
    assert {u.unit_id for u in before.units} < {u.unit_id for u in after.units}
    assert set(read_all(before)["row_id"].to_pylist()) < set(read_all(after)["row_id"].to_pylist())


def test_identical_files_are_different_rows(tmp_path: Path) -> None:
    paths = [write_csv(tmp_path / f"{name}.csv", ROWS[:10]) for name in "ab"]
    found = look(paths, tmp_path)
    assert len({u.unit_id for u in found.units}) == 2
    assert len(set(read_all(found)["row_id"].to_pylist())) == 20
    # One file named twice is one file.
    assert look([paths[0], paths[0]], tmp_path).rows == 10


def test_limit_cuts_the_tail(tmp_path: Path) -> None:
    paths = [write_csv(tmp_path / f"{n}.csv", ROWS[n * 100 : n * 100 + 100]) for n in range(3)]
    found = look(paths, tmp_path, unit_rows=40, limit=150)
    assert [u.rows for u in found.units] == [40, 40, 20, 40, 10]
    assert rows_of(read_all(found), "question", "answer") == ROWS[:150]
    assert look(paths, tmp_path, limit=1).rows == 1
    assert look(paths, tmp_path, limit=10_000).rows == 300


def test_large_sources_get_large_units() -> None:
    assert default_unit_rows([1000]) == 512
    assert default_unit_rows([512 * MOST_UNITS]) == 512
    assert default_unit_rows([512 * MOST_UNITS + 1]) == 1024
    assert default_unit_rows([10**9]) == 131072
    assert default_unit_rows([100] * 50_000) == 512  # files are never put together


@pytest.mark.parametrize("rows", [1, 512, 512 * 20_000, 512 * 20_001, 30_000_000])
def test_marks_stay_few_and_exact(rows: int) -> None:
    marks = Marks(512, may_grow=True)
    for row in range(0, rows, 512):
        if row % marks.step == 0:
            marks.add(row)
    assert len(marks.offsets) <= 2 * MOST_UNITS + 1
    size = default_unit_rows([rows])
    assert marks.every(size) == list(range(0, rows, size))


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.bz2", "a.csv.zst"])
def test_compressed_files(tmp_path: Path, name: str) -> None:
    import pyarrow as pa

    plain = write_csv(tmp_path / "a.csv", ROWS).read_bytes()
    with pa.CompressedOutputStream(
        str(tmp_path / name), {"gz": "gzip", "bz2": "bz2", "zst": "zstd"}[name[6:]]
    ) as out:
        out.write(plain)
    found = look(tmp_path / name, tmp_path / "scratch", unit_rows=100)
    assert rows_of(read_all(found), "question", "answer") == ROWS
    (staged,) = (tmp_path / "scratch").iterdir()
    made = staged.stat().st_mtime_ns
    assert look(tmp_path / name, tmp_path / "scratch", unit_rows=100).units == found.units
    assert staged.stat().st_mtime_ns == made


def test_gzip_of_several_members_and_of_an_array(tmp_path: Path) -> None:
    members = [b'[{"q": "a"},', b'{"q": "b"}]']
    (tmp_path / "a.json.gz").write_bytes(b"".join(map(gzip.compress, members)))
    assert read_all(look(tmp_path / "a.json.gz", tmp_path / "s"))["q"].to_pylist() == ["a", "b"]


def test_a_file_that_changes_after_the_survey(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", ROWS)
    found = look(path, tmp_path)
    write_csv(path, ROWS[:-1])
    with pytest.raises(RunError, match=r"a\.csv: changed since the run began"):
        read_unit(found.units[0], found.spec)
    path.unlink()
    with pytest.raises(RunError, match=r"a\.csv: cannot be read any more"):
        read_unit(found.units[0], found.spec)
