"""Rows of a stage: which are selected, as what they come, and how much is read for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.made_qa_run import made_qa_run
from support.made_run import FOLDERS, TEXTS, MadeRun, made_run

from ray_pipeline.core.errors import UserError
from ray_pipeline.rundir.layout import part_path
from ray_pipeline.rundir.reader import RunReader, SegmentFolder
from ray_pipeline.rundir.rows import Rows
from ray_pipeline.rundir.units import Unit


@pytest.fixture
def run(tmp_path: Path) -> MadeRun:
    return made_run(str(tmp_path / "made"))


@pytest.fixture
def reader(run: MadeRun) -> RunReader:
    return RunReader(run.storage.root)


def texts(rows: Rows) -> list[str]:
    return rows.to_arrow()["text"].to_pylist()


def test_rows_by_status_and_reason(reader: RunReader) -> None:
    dropped = ["two spam", "six spam"]
    assert texts(Rows(reader, "tidy", "dropped")) == dropped
    assert texts(Rows(reader, "tidy", reason="tidy:sp")) == dropped
    assert texts(Rows(reader, "tidy", reason="tidy:spam: it says")) == dropped
    assert texts(Rows(reader, "tidy", reason="other")) == []
    assert texts(Rows(reader, "ask", "failed")) == ["four boom"]
    assert len(texts(Rows(reader, "ask", "kept"))) == 5
    assert len(texts(Rows(reader, "ask"))) == 6


def test_kept_rows_of_fused_stages_come_with_a_note(reader: RunReader) -> None:
    rows = Rows(reader, "source")
    assert "source ran and committed together with tidy" in (rows.note or "")
    assert Rows(reader, "source", "dropped").note is None
    assert Rows(reader, "tidy").note is None
    assert len(texts(Rows(reader, "source", "kept"))) == 6


def test_unknown_names_are_answered_with_the_nearest(reader: RunReader) -> None:
    with pytest.raises(UserError, match="did you mean 'augment'"):
        Rows(reader, "augmet")
    with pytest.raises(UserError, match="did you mean 'dropped'"):
        Rows(reader, "tidy", "droped")
    with pytest.raises(UserError, match="rows of tidy: no column 'txt'; did you mean 'text'"):
        Rows(reader, "tidy", columns=["txt"])


def test_columns_come_in_the_order_that_is_asked_for(reader: RunReader) -> None:
    rows = Rows(reader, "tidy", "dropped", columns=["reason", "text"])
    assert rows.schema.names == ["reason", "text"]
    assert rows.to_arrow().to_pylist() == [
        {"reason": "tidy:spam: it says so", "text": text} for text in ("two spam", "six spam")
    ]


@pytest.mark.parametrize("limit", [0, 1, 3, 4, 5, len(TEXTS), 100])
def test_a_limit_cuts_off_the_rest(reader: RunReader, limit: int) -> None:
    assert texts(Rows(reader, "tidy", limit=limit)) == texts(Rows(reader, "tidy"))[:limit]


def test_a_unit_is_read_when_its_batch_is_wanted(
    reader: RunReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def rows_of(reader: RunReader, segment: SegmentFolder, unit: Unit, columns: Any) -> pa.Table:
        opened.append(unit.unit_id)
        return original(reader, segment, unit, columns)

    original = RunReader.rows_of
    monkeypatch.setattr(RunReader, "rows_of", rows_of)
    batches = iter(Rows(reader, "tidy"))
    assert opened == []
    first = next(batches)
    assert isinstance(first, pa.RecordBatch) and first.num_rows == 4 and len(opened) == 1
    assert next(batches).num_rows == len(TEXTS) - 4 and len(opened) == 2
    opened.clear()
    assert texts(Rows(reader, "tidy", limit=4)) and len(opened) == 1
    opened.clear()
    # The accounts in the footers tell that no part of `augment` has dropped rows.
    assert texts(Rows(reader, "augment", "dropped")) == [] and opened == []


def test_as_arrow_pandas_and_data_set_they_are_the_same(tmp_path: Path) -> None:
    made_qa_run(str(tmp_path), 60, 20)
    rows = Rows(RunReader(str(tmp_path)), "accept-paraphrases", "kept")
    table = rows.to_arrow()
    assert table.num_rows == RunReader(str(tmp_path)).entry("accept-paraphrases").account.kept
    assert pa.types.is_float16(table.schema.field("embedding").type.value_type)
    frame = rows.to_pandas()
    assert frame["row_id"].tolist() == table["row_id"].to_pylist()
    assert list(frame.columns) == table.column_names
    dataset = rows.to_dataset()
    assert dataset["row_id"] == table["row_id"].to_pylist()
    assert dataset.cache_files  # memory-mapped, not in memory
    longest = dataset.filter(lambda row: len(row["question"]) > 5, num_proc=1)
    assert longest.num_rows == table.num_rows


def test_a_stage_without_committed_units_has_no_rows(run: MadeRun) -> None:
    for unit in run.units:
        run.storage.delete(part_path(FOLDERS["augment"], unit.unit_id))
    rows = Rows(RunReader(run.storage.root), "augment")
    assert list(rows) == [] and rows.to_arrow().num_rows == 0 and rows.schema.names == []
