from __future__ import annotations

from pathlib import Path

from support.html_page import page
from support.made_run import TEXTS, MadeRun, made_run

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.by_source import SourceAccount, read

SOURCES = ("corpus", "queries")


def accounts_of(run: MadeRun) -> dict[str, SourceAccount]:
    return {account.name: account for account in read(ReportReader(run.storage.root)) or []}


def test_each_source_has_its_own_account(tmp_path: Path) -> None:
    run = made_run(str(tmp_path), sources=SOURCES)
    run.ledger.check()
    accounts = accounts_of(run)
    assert list(accounts) == ["corpus", "queries"]
    changed = {
        name: {line.account.name: line.account.rows for line in account.lines}
        for name, account in accounts.items()
    }
    rows = {"rows_in": 4, "created": 0, "kept": 3, "dropped": 1, "failed": 0}
    assert changed["corpus"]["tidy"] == changed["queries"]["tidy"] == rows
    # The text with "boom" is the corpus's: the queries come through `ask` unchanged.
    assert list(changed["corpus"]) == ["tidy", "ask", "augment"]
    assert list(changed["queries"]) == ["tidy", "augment"]
    assert (accounts["corpus"].unchanged, accounts["queries"].unchanged) == (1, 2)
    queries = accounts["queries"].totals
    assert (queries.read, queries.created, queries.kept, queries.dropped) == (4, 3, 6, 1)
    assert queries.balances

    words = page(run).words
    assert "Rows by source" in words and "1 other stage kept every row" in words
    assert "off by" not in words and "does not add up" not in words


def test_rows_that_moved_from_one_source_to_another_are_an_alarm(tmp_path: Path) -> None:
    run = made_run(str(tmp_path), sources=SOURCES)
    sources = run.accounts["augment"].sources
    sources["corpus"]["kept"] += 1
    sources["queries"]["kept"] -= 1
    run.save()
    by_name = accounts_of(run)
    assert by_name["corpus"].lines[-1].off_by == -1 and by_name["queries"].lines[-1].off_by == 1
    # The account of all rows is right: only the sources are not.
    assert page(run).text.count("does not add up") == 2


def test_a_source_whose_units_have_not_come_so_far(tmp_path: Path) -> None:
    run = made_run(str(tmp_path), TEXTS, ask_units=1, sources=SOURCES).save("interrupted")
    accounts = accounts_of(run)
    assert accounts["queries"].totals.waiting == 3 and accounts["queries"].totals.balances
    assert accounts["corpus"].totals.waiting == 0
    assert [line.unread for line in accounts["queries"].lines] == [0, 3]


def test_a_source_without_a_name_has_no_such_section(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    assert accounts_of(run) == {}
    assert "Rows by source" not in page(run).words
