"""Writing subsets: in order through the disk, on object storage too, and what cannot be written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.rows import set_column, with_envelope
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.parts import write_part
from ray_pipeline.rundir.stored_rows import StoredRows
from ray_pipeline.stage import Settings, Workplace
from ray_pipeline.stages.subsets import files as subset_files
from ray_pipeline.stages.subsets.select import SelectSubsets
from ray_pipeline.stages.subsets.write import WriteSubsets


def stage(**subsets: Any) -> WriteSubsets:
    settings = Settings(stages=[SelectSubsets().bound({"subsets": subsets})])
    return WriteSubsets().bound({"shard_rows": 100}, settings)


def stored(storage: Storage, number: int, held: int = 150, aside: int = 20) -> StoredRows:
    """Rows of random rank in parts of 60; the best ``held`` are in ``few``, odd ones are drawn."""
    ranks = np.random.default_rng(5).permutation(number)
    lists = [["few"] * (r < held) + ["few-random"] * bool(r % 2) for r in ranks.tolist()]
    data = pa.table(
        {
            "instruction": [f"rank {r} “ü”, \n" for r in ranks.tolist()] + ["aside"] * aside,
            "response": ["long " * (r % 50) for r in ranks.tolist()] + [""] * aside,
            "quality": [-r / 7 for r in ranks.tolist()] + [0.5] * aside,
            "split": ["train"] * number + ["validation"] * aside,
            "quality_rank": [*ranks.tolist(), *([None] * aside)],
            "subsets": pa.array([*lists, *([None] * aside)], pa.list_(pa.string())),
            "input_ids": pa.array([[1] * 3] * (number + aside), pa.list_(pa.int32())),
        }
    )
    rows = with_envelope(data, [f"{i:05d}" for i in range(data.num_rows)])
    status = ["dropped" if i == 3 else "kept" for i in range(rows.num_rows)]
    rows = set_column(rows, "status", pa.array(status))
    paths = []
    for start in range(0, max(1, rows.num_rows), 60):
        paths.append(f"stages/01-x/rows/part-{start}.parquet")
        some = rows.slice(start, 60)
        write_part(storage, paths[-1], some, fingerprint="f", input_digest="i", accounts=[])
    return StoredRows(storage, tuple(paths), "digest")


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "s3":
        request.getfixturevalue("s3")
        return Storage(f"s3://bucket/{tmp_path.name}/run")
    return Storage(str(tmp_path / "run"))


def test_rows_come_out_by_rank(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subset_files, "_BUCKET_ROWS", 32)
    monkeypatch.setattr(subset_files, "_GATHERED", 5_000)
    monkeypatch.setattr(subset_files, "_GROUP_ROWS", 30)
    said: list[str] = []
    storage.write_bytes("exports/subsets/gone/train-00000-of-00001.parquet", b"of another run")
    place = Workplace(storage, "stages/02-write-subsets/work", said.append)
    one = stage(few={"rows": 150})
    figures = one.make(stored(storage, 400), place)
    assert all(storage.exists(path) for path in one.makes)
    assert not storage.exists("exports/subsets/gone")
    assert (figures["pool"], figures["validation_rows"]) == (399, 20)
    copy = tmp_path / "copy"
    for path in storage.list("exports/subsets", recursive=True):
        target = copy / path.removeprefix("exports/subsets/")
        target.parent.mkdir(parents=True, exist_ok=True)
        with storage.open(path) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file)
    for name, number in (("few", 150), ("few-random", 200)):
        files = sorted((copy / name).glob("train-*.parquet"))
        assert len(files) == 2
        rows = pa.concat_tables(pq.read_table(file) for file in files)
        ranks = rows["quality_rank"].to_pylist()
        assert ranks == sorted(ranks)
        assert len(ranks) in (number, number - 1)  # one row was dropped before
        assert set(rows.column_names).isdisjoint({"input_ids", "status", "reason", "parent_id"})
        assert rows["instruction"].to_pylist() == [f"rank {r} “ü”, \n" for r in ranks]
        saved = datasets.load_from_disk(str(copy / name / "dataset"))
        assert saved["train"]["quality_rank"][:] == ranks
        assert saved["validation"].num_rows == 20
        assert figures["subsets"][name]["tokens"] == 3 * len(ranks)
    short = len(said) == 1 and said[0].startswith("  few: 149 rows, where 150 are asked")
    assert short == (figures["subsets"]["few"]["rows"] == 149)


def test_no_validation_rows(tmp_path: Path) -> None:
    place = Workplace(Storage(str(tmp_path)), "work", print)
    stage(few={"rows": 5}).make(stored(place.storage, 50, aside=0), place)
    saved = datasets.load_from_disk(str(tmp_path / "exports/subsets/few/dataset"))
    assert (saved["train"].num_rows, saved["validation"].num_rows) == (49, 0)


@pytest.mark.parametrize(
    ("rows", "held", "message"),
    [(0, 0, "no row is left to train on"), (30, 0, "few: no row is in it: of 29 rows the best")],
)
def test_nothing_to_write(tmp_path: Path, rows: int, held: int, message: str) -> None:
    place = Workplace(Storage(str(tmp_path)), "work", print)
    with pytest.raises(RunError, match=message):
        stage(few={"min_score": 99}).make(stored(place.storage, rows, held, 9), place)
    assert not (tmp_path / "exports").exists()
    assert not list((tmp_path / "work").glob("*"))
