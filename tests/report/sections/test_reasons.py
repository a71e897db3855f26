from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc
import pytest
from support.html_page import page
from support.made_qa_run import made_qa_run
from support.made_run import FOLDERS, made_run

from ray_pipeline.core.rows import drop, set_column
from ray_pipeline.report import resting_rows
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.reasons import read
from ray_pipeline.rundir.account import StageAccount
from ray_pipeline.rundir.layout import part_path
from ray_pipeline.rundir.parts import read_rows, write_part


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


def test_what_became_of_rows_is_read_from_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made_run(str(tmp_path))
    account, unit = run.accounts["ask"], run.units[0]
    path = part_path(FOLDERS["ask"], unit.unit_id)
    rows = read_rows(run.storage, path)
    first = pc.equal(rows["row_id"], rows["row_id"][0])
    out = drop(rows, first, "llm:declined: it would not say")
    out = set_column(out, "stage", pc.if_else(first, "ask", out["stage"]))
    accounts = [StageAccount.of("ask", rows, out)]
    write_part(run.storage, path, out, fingerprint="print-ask", input_digest="", accounts=accounts)
    account.kept, account.dropped, account.reasons["llm:declined"] = account.kept - 1, 1, 1
    run.save()
    monkeypatch.setattr(resting_rows, "_FOOTERS", 0)  # no examples
    lines = read(ReportReader(run.storage.root)).lines
    assert not any(line.examples for line in lines)
    statuses = {line.code: line.status for line in lines}
    assert (statuses["llm:declined"], statuses["llm:unusable"]) == ("dropped", "failed")


def test_a_reason_whose_parts_are_gone_has_no_examples(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    for unit in run.units:
        run.storage.delete(part_path(FOLDERS["augment"], unit.unit_id))
    account = run.accounts["augment"]
    account.dropped, account.kept, account.reasons = 1, account.kept - 1, {"augment:odd": 1}
    lines = read(ReportReader(run.save().storage.root)).lines
    (line,) = [line for line in lines if line.code == "augment:odd"]
    assert line.status == "dropped" and not line.examples
    assert "None of these rows is in the part of the run" in page(run).words
