from __future__ import annotations

from pathlib import Path

from support.html_page import page
from support.made_qa_run import Row, made_qa_run

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.shared_texts import read
from ray_pipeline.rundir.reader import RunReader
from ray_pipeline.rundir.rows import Rows


def test_rows_with_one_question_are_grouped(tmp_path: Path) -> None:
    run = made_qa_run(str(tmp_path))
    (shared,) = read(ReportReader(run.storage.root)) or []
    assert (shared.column, shared.text) == ("same_question_group", "question")
    kept = Rows(RunReader(run.storage.root), "deduplicate", "kept").to_arrow()
    keys = kept["same_question_group"].to_pylist()
    assert shared.rows == sum(key is not None for key in keys)
    assert shared.groups == len({key for key in keys if key is not None})
    assert shared.is_whole
    assert all(len(group.members) == group.rows for group in shared.largest)
    assert "Rows with the same question" in page(run).words


def test_rows_with_one_answer_are_grouped(tmp_path: Path) -> None:
    def change(stage: str, row: Row) -> None:
        if stage == "deduplicate" and row["position"] in (1, 2):
            row["same_answer_group"] = "a"

    run = made_qa_run(str(tmp_path), 12, change=change, until="deduplicate")
    by_text = {shared.text: shared for shared in read(ReportReader(run.storage.root)) or []}
    assert list(by_text) == ["question", "answer"]
    assert (by_text["answer"].rows, by_text["answer"].groups) == (2, 1)


def test_without_groups_there_is_no_section(tmp_path: Path) -> None:
    def change(stage: str, row: Row) -> None:
        row["same_question_group"] = None

    run = made_qa_run(str(tmp_path / "a"), 20, change=change)
    assert read(ReportReader(run.storage.root)) is None
    run = made_qa_run(str(tmp_path / "b"), 20, until="clean-text")
    assert read(ReportReader(run.storage.root)) is None
