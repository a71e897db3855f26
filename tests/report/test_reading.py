from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from support.made_qa_run import made_qa_run
from support.made_run import made_run

from ray_pipeline.core.errors import RunError
from ray_pipeline.report.reading import (
    ReportReader,
    segments_with,
    some_units,
    texts_of,
    valid_evidence,
    without_vectors,
)
from ray_pipeline.stages.training.teacher_log_probs import TeacherLogProbs


def test_what_sections_share_is_worked_out_once(tmp_path: Path) -> None:
    calls = []

    def count_units(reader: ReportReader) -> int:
        calls.append(reader)
        return len(reader.units)

    reader = ReportReader(made_run(str(tmp_path)).storage.root)
    assert [reader.once(count_units), reader.once(count_units)] == [2, 2] and len(calls) == 1


def test_units_are_chosen_by_their_ids(tmp_path: Path) -> None:
    reader = ReportReader(made_qa_run(str(tmp_path), 60, 10, until="source").storage.root)
    chosen = some_units(reader, 3)
    assert [unit.unit_id for unit in chosen] == sorted(unit.unit_id for unit in reader.units)[:3]


def test_segments_are_found_by_their_columns(tmp_path: Path) -> None:
    reader = ReportReader(made_qa_run(str(tmp_path), 20, until="augment-formal").storage.root)
    stages = [segment.stages[-1] for segment in segments_with(reader, "question", "duplicate_of")]
    assert stages == ["deduplicate", "augment-formal"]
    assert segments_with(reader, "question", "nothing") == []


def test_texts_of_rows_are_shortened(tmp_path: Path) -> None:
    run = made_qa_run(str(tmp_path), 20, until="source")
    reader = ReportReader(run.storage.root)
    texts = texts_of(reader, reader.segments[0], run.units[0], {run.row_id(3), "other"}, 20)
    ((row_id, columns),) = texts.items()
    assert row_id == run.row_id(3)
    assert [name for name, _ in columns] == ["question", "answer"]
    assert all(18 < len(text) <= 20 and text.endswith("…") for _, text in columns)


def test_a_table_of_text_cells_is_read_in_part(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    run.storage.write_bytes("exports/a.csv", b"id,text\n007,1e5\n8,\n")
    reader = ReportReader(run.storage.root)
    table = reader.csv("exports/a.csv")
    assert table is not None and table.to_pylist() == [
        {"id": "007", "text": "1e5"},
        {"id": "8", "text": ""},
    ]
    assert reader.csv("exports/none.csv") is None
    run.storage.write_bytes("exports/b.csv", b'id,text\n1,2,3,4\n"')
    with pytest.raises(RunError, match=r"exports/b\.csv"):
        reader.csv("exports/b.csv")


def test_evidence_of_another_type_is_null() -> None:
    rows = pa.table(
        {
            "similarity": [0.5, float("nan")],
            "outlier_score": ["high", "low"],
            "outlier_cluster": [1, -1],
            "version": [1, 2],
            "other": [True, False],
        }
    )
    assert valid_evidence(rows).to_pydict() == {
        "similarity": [0.5, None],
        "outlier_score": [None, None],
        "outlier_cluster": [1, -1],
        "version": [None, None],
        "other": [True, False],
    }


def test_token_ids_are_not_for_reading() -> None:
    lists = {
        "ids": pa.array([[1, 2]], pa.list_(pa.int32())),
        "mask": pa.array([[True]], pa.list_(pa.bool_())),
        "tails": pa.array([[0.5]], pa.large_list(pa.float32())),
        "choices": pa.array([["a", "b"]]),
        "length": [2],
    }
    assert without_vectors(pa.table(lists)).column_names == ["choices", "length"]


def test_the_cache_of_a_teacher_is_not_for_reading() -> None:
    written = {name: pa.nulls(1, kind) for name, kind in TeacherLogProbs.writes.items()}
    assert without_vectors(pa.table({"text": ["a"], **written})).column_names == ["text"]
    own = pa.table({"text": ["a"], "teacher": ["Mrs Smith"]})
    assert without_vectors(own).column_names == ["text", "teacher"]
