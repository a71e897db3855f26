from __future__ import annotations

from pathlib import Path

import pytest
from support.html_page import page
from support.made_qa_run import made_qa_run
from support.made_run import TEXTS, made_run
from support.made_trained_run import STAGES, made_trained_run

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.account import Account, read


def account_of(folder: str) -> Account:
    return read(ReportReader(folder))


def test_shows_every_stage_and_its_rows(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    section = account_of(run.storage.root)
    assert [line.account for line in section.lines] == list(run.accounts.values())
    assert all(line.is_right for line in section.lines)
    totals = section.totals
    assert (totals.read, totals.created, totals.kept) == (8, 5, 10)
    assert (totals.dropped, totals.failed, totals.waiting) == (2, 1, 0)
    assert totals.balances
    words = page(run).words
    for account in run.accounts.values():
        assert account.name in words


def test_a_right_account_has_no_alarm(tmp_path: Path) -> None:
    text = page(made_run(str(tmp_path))).text
    assert "off by" not in text and "does not add up" not in text


def test_shows_where_the_account_is_wrong(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    run.accounts["tidy"].dropped -= 1
    text = page(run.save()).text
    assert "off by 1" in text
    assert "does not add up" in text


def test_shows_rows_that_were_lost_between_stages(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    run.accounts["tidy"].kept += 2
    run.accounts["tidy"].dropped -= 2
    text = page(run.save()).text
    assert "2 not read" in text
    assert "does not add up" in text


def test_an_interrupted_run_shows_what_is_to_come(tmp_path: Path) -> None:
    run = made_run(str(tmp_path), TEXTS, ask_units=1).save("interrupted", "stopped by the user")
    text = page(run).text
    assert "interrupted" in text and "stopped by the user" in text
    assert "3 to come" in text
    assert "does not add up" not in text


def test_reused_stages_are_marked(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    assert "reused" not in page(run).words.partition("Why rows left")[0]
    run.ledger.entries[2].reused = True
    assert "reused stages were taken from an earlier run" in page(run.save()).words


def test_the_drawing_names_reasons_and_what_was_created(tmp_path: Path) -> None:
    run = made_qa_run(str(tmp_path))
    run.ledger.check()
    by_name = {row.account.name: row for row in account_of(run.storage.root).flow}
    assert 'class="created"' in by_name["augment-formal"].svg
    assert 'class="dropped"' in by_name["deduplicate"].svg
    assert by_name["deduplicate"].reasons == [("duplicate:near", 10), ("duplicate:exact", 8)]
    assert 'class="dropped"' not in by_name["embed"].svg


@pytest.mark.parametrize(("number", "named", "others"), [(4, 4, 0), (5, 3, 2)])
def test_many_reasons_are_counted_together(
    tmp_path: Path, number: int, named: int, others: int
) -> None:
    run = made_run(str(tmp_path))
    run.accounts["tidy"].reasons = {f"tidy:reason {n}": 1 for n in range(number)}
    (row,) = [r for r in account_of(run.save().storage.root).flow if r.account.name == "tidy"]
    assert len(row.reasons) == named and (row.other_reasons, row.other_rows) == (others, others)


def test_stages_that_make_files_are_not_in_the_drawing(tmp_path: Path) -> None:
    run = made_trained_run(str(tmp_path))
    section = account_of(run.storage.root)
    drawn = [row.account.name for row in section.flow]
    assert drawn == [*run.accounts][:4] + ["split", "tokenise", "teacher-log-probs"]
    assert section.artifact_stages == [stage for stage in STAGES if stage not in drawn]
    assert "train-alone, evaluate, which make files out of the rows" in page(run).words
    assert [line.account.name for line in section.lines] == list(run.accounts)
    assert all(line.is_right for line in section.lines)


def test_a_stage_that_changes_rows_stays_in_the_drawing(tmp_path: Path) -> None:
    run = made_trained_run(str(tmp_path))
    account = run.accounts["evaluate"]
    account.kept, account.dropped, account.reasons = account.kept - 1, 1, {"odd:one": 1}
    section = account_of(run.save().storage.root)
    assert "evaluate" in {row.account.name for row in section.flow}
    assert "evaluate" not in section.artifact_stages
