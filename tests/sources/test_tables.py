"""Parquet, and data sets saved by the Hugging Face library."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.source_reading import TEXT, look, read_all, rows_of

from ray_pipeline.core.errors import UserError
from ray_pipeline.sources import hub
from ray_pipeline.sources.parquet import Parquet

DATA = pa.table(
    {
        "q": pa.array([f"q{n}" if n % 7 else None for n in range(100)], pa.large_string()),
        "label": pa.array([f"l{n % 3}" for n in range(100)]).dictionary_encode(),
        "n": pa.array(range(100), pa.int32()),
        "tags": [[str(n)] for n in range(100)],
    }
)


@pytest.mark.parametrize(("group", "staged"), [(100, True), (10, False), (3, False)])
def test_round_trip(tmp_path: Path, group: int, staged: bool) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(DATA, path, row_group_size=group)
    found = look(path, tmp_path / "scratch", {"q": TEXT, "label": TEXT}, unit_rows=7)
    table = read_all(found)
    assert table.select(DATA.column_names).to_pylist() == DATA.to_pylist()
    assert table.schema.field("q").type == table.schema.field("label").type == pa.string()
    assert table.schema.field("n").type == pa.int32()
    assert (found.units[0].uri != str(path)) is staged
    assert table["row_id"].to_pylist() == read_all(look(path, tmp_path))["row_id"].to_pylist()


def test_a_unit_reads_its_own_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(DATA, path, row_group_size=10)
    asked: list[list[int]] = []
    read = pq.ParquetFile.read_row_groups

    def spy(self: Any, groups: list[int], **options: Any) -> pa.Table:
        asked.append(groups)
        return read(self, groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", spy)
    read_all(look(path, tmp_path, unit_rows=10))
    assert asked == [[n] for n in range(10)]
    asked.clear()
    read_all(look(path, tmp_path, unit_rows=25))
    assert asked == [[0, 1, 2], [2, 3, 4], [5, 6, 7], [7, 8, 9]]


def test_a_required_column_of_another_type(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(DATA, path)
    with pytest.raises(UserError, match=r"column 'n': expected text, found int32"):
        look(path, tmp_path, {"n": TEXT})
    with pytest.raises(
        UserError, match=r"'answer' \(the file's 'tags'\): expected text, found list"
    ):
        look(path, tmp_path, {"answer": TEXT}, columns={"answer": "tags"})
    assert read_all(look(path, tmp_path, {"n": pa.int64()})).schema.field("n").type == pa.int64()


def test_files_of_different_types(tmp_path: Path) -> None:
    pq.write_table(pa.table({"q": ["a"], "n": [1], "m": [1], "d": [None]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"q": ["b"], "n": [0.5], "m": ["x"]}), tmp_path / "b.parquet")
    (tmp_path / "c.jsonl").write_text('{"q": "c", "n": 7, "extra": true}\n', encoding="utf-8")
    (tmp_path / "d.csv").write_text("q\nd\n", encoding="utf-8")
    table = read_all(look(tmp_path, tmp_path / "scratch", {"q": TEXT}))
    assert rows_of(table, "q", "n", "m", "d", "extra") == [
        ("a", 1.0, "1", None, None),
        ("b", 0.5, "x", None, None),
        ("c", 7.0, None, None, True),
        ("d", None, None, None, None),
    ]


def test_integers_that_a_double_cannot_hold_keep_their_digits(tmp_path: Path) -> None:
    large = 2**53 + 1
    pq.write_table(pa.table({"n": [large, None], "m": [None, 7]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"n": [0.5], "m": [0.5]}), tmp_path / "b.parquet")
    table = read_all(look(tmp_path, tmp_path / "scratch"))
    assert rows_of(table, "n", "m") == [(str(large), None), (None, 7.0), ("0.5", 0.5)]
    pq.write_table(pa.table({"n": [large]}), tmp_path / "b.parquet")
    assert read_all(look(tmp_path, tmp_path / "scratch"))["n"].type == pa.int64()
    options = {"write_statistics": False}
    pq.write_table(pa.table({"n": [1]}), tmp_path / "a.parquet", **options)
    pq.write_table(pa.table({"n": [0.5]}), tmp_path / "b.parquet")
    table = read_all(look(tmp_path, tmp_path / "scratch"))
    assert table["n"].to_pylist() == ["1", "0.5"]


@pytest.fixture
def data_set() -> Any:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"q": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    rows = {"q": [f"q{n}" for n in range(25)], "label": [n % 2 for n in range(25)]}
    return datasets.Dataset.from_dict(rows, features=features)


def test_saved_data_set(tmp_path: Path, data_set: Any) -> None:
    data_set.save_to_disk(tmp_path / "saved", num_shards=3)
    table = read_all(look(tmp_path / "saved", tmp_path / "scratch", {"q": TEXT}, unit_rows=4))
    assert rows_of(table, "q", "label") == [(f"q{n}", n % 2) for n in range(25)]


def test_saved_data_set_with_splits(tmp_path: Path, data_set: Any) -> None:
    import datasets

    both = datasets.DatasetDict(train=data_set, test=data_set.select(range(5)))
    both.save_to_disk(tmp_path / "saved")
    table = read_all(look(tmp_path / "saved", tmp_path / "scratch", {"q": TEXT}, split="test"))
    assert table["q"].to_pylist() == [f"q{n}" for n in range(5)]
    for split, wrong in ((None, "several splits"), ("dev", "no split 'dev'")):
        with pytest.raises(UserError, match=f"{wrong}.*train, test: set source.split"):
            look(tmp_path / "saved", tmp_path / "scratch", split=split)


def test_hub_data_set(tmp_path: Path, data_set: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_load", lambda path, split: data_set)
    first = look("hf://owner/name", tmp_path / "scratch", {"q": TEXT}, unit_rows=10)
    assert rows_of(read_all(first), "q", "label") == [(f"q{n}", n % 2) for n in range(25)]
    again = look("hf://owner/name", tmp_path / "other", {"q": TEXT}, unit_rows=10)
    assert [u.unit_id for u in first.units] == [u.unit_id for u in again.units]


def test_hub_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach 'nobody/nothing' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(UserError, match=r"source hf://nobody/nothing: the hub gave no such.*save"):
        look("hf://nobody/nothing", tmp_path)


@pytest.mark.parametrize("rows_a_group", [2_000, 40_000])
def test_a_large_file_is_never_whole_in_memory(tmp_path: Path, rows_a_group: int) -> None:
    """pyarrow's read-ahead once kept all of it: 350 MiB for a million rows."""
    draw = random.Random(7)
    texts = [draw.randbytes(250).hex() for _ in range(40_000)]
    path = tmp_path / "large.parquet"
    options = {"row_group_size": rows_a_group, "use_dictionary": False, "compression": "none"}
    pq.write_table(pa.table({"text": texts}), path, **options)
    del texts
    before = pa.total_allocated_bytes()
    rows = most = 0
    for batch in Parquet().batches(str(path)):
        rows += batch.num_rows
        most = max(most, pa.total_allocated_bytes() - before)
        del batch
    assert rows == 40_000
    assert path.stat().st_size > 20_000_000
    assert most < 10_000_000
