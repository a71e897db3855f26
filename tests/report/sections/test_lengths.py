from __future__ import annotations

from pathlib import Path

from support.made_qa_run import made_qa_run

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.lengths import read


def test_compares_the_source_with_what_was_kept(tmp_path: Path) -> None:
    run = made_qa_run(str(tmp_path))
    section = read(ReportReader(run.storage.root))
    assert section is not None
    assert [column.column for column in section.columns] == ["question", "answer"]
    for column in section.columns:
        assert column.before.texts == 300
        assert column.after.texts == run.accounts["accept-paraphrases"].kept
        assert column.before.low <= column.before.median <= column.before.high
    assert (section.first, section.last) == (("source",), ("accept-paraphrases",))


def test_needs_two_segments_with_rows(tmp_path: Path) -> None:
    run = made_qa_run(str(tmp_path / "a"), 20, until="source")
    assert read(ReportReader(run.storage.root)) is None
    run = made_qa_run(str(tmp_path / "b"), 0)
    assert read(ReportReader(run.storage.root)) is None
    run = made_qa_run(str(tmp_path / "c"), 20, until="clean-text")
    assert read(ReportReader(run.storage.root)) is not None
