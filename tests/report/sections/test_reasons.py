from __future__ import annotations

from pathlib import Path

from support.html_page import page
from support.made_qa_run import made_qa_run
from support.made_run import made_run

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.reasons import read


def test_shows_every_reason_with_examples_of_dropped_rows(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    section = read(ReportReader(run.storage.root))
    assert [(line.stage, line.code, line.status, line.rows) for line in section.lines] == [
        ("tidy", "tidy:spam", "dropped", 2),
        ("ask", "llm:unusable", "failed", 1),
    ]
    (dropped,) = section.of_dropped
    assert sorted(dict(row.values)["text"] for row in dropped.examples) == ["six spam", "two spam"]
    words = page(run).words
    for account in run.accounts.values():
        for reason in account.reasons:
            assert reason in words
    assert "two spam" in words and "six spam" in words


def test_three_examples_of_each_reason_are_enough(tmp_path: Path) -> None:
    run = made_qa_run(str(tmp_path))
    lines = read(ReportReader(run.storage.root)).lines
    reasons = {name: account.reasons for name, account in run.accounts.items() if account.reasons}
    assert {line.stage: line.rows_in for line in lines} == {
        name: run.accounts[name].rows_in for name in reasons
    }
    for line in lines:
        assert line.rows == reasons[line.stage][line.code]
        assert 1 <= len(line.examples) == min(line.rows, 3)
        assert all(row.reason.startswith(line.code) for row in line.examples)


def test_a_reason_without_an_example_keeps_its_likely_status(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    for unit in run.units:
        run.storage.delete(f"{run.folder('augment')}/rows/part-{unit.unit_id}.parquet")
    account = run.accounts["augment"]
    account.dropped, account.failed, account.kept = 1, 1, account.kept - 2
    account.reasons = {"augment:odd": 1, "llm:unusable": 1}
    lines = read(ReportReader(run.save().storage.root)).lines
    by_code = {(line.stage, line.code): line for line in lines}
    assert by_code["augment", "augment:odd"].status == "dropped"
    assert by_code["augment", "llm:unusable"].status == "failed"
    assert not by_code["augment", "augment:odd"].examples
    assert "None of these rows is in the part of the run" in page(run).words
