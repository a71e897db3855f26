from __future__ import annotations

from pathlib import Path

from support.html_page import page
from support.made_qa_run import made_qa_run
from support.made_run import made_run

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.effort import read


def test_there_is_a_bar_for_every_stage_that_worked(tmp_path: Path) -> None:
    run = made_qa_run(str(tmp_path), 60)
    rows = read(ReportReader(run.storage.root)).rows
    assert {row.account.name for row in rows} == set(run.accounts)
    tokens = {row.account.name: row.all_tokens for row in rows}
    assert tokens["augment-formal"] == run.accounts["augment-formal"].created * 85
    assert tokens["embed"] == 0


def test_requests_are_priced(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    (line,) = read(ReportReader(run.storage.root)).llms
    assert (line.stage, line.model, line.usage.requests) == ("ask", "tiny-writer", 6)
    assert (line.rows_in, line.failed, line.is_priced) == (6, 1, True)
    text = page(run).text
    assert "$1.50" in text  # six answers at a quarter
    assert "$250.00" in text  # for a thousand rows


def test_without_a_price_there_is_a_dash(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    run.write_config({"llms": {"writer": {"model": "m"}}, "stages": {"ask": {"llm": "writer"}}})
    usage = run.accounts["ask"].llm
    assert usage is not None
    usage.cost_usd = 0.0
    words = page(run.save()).words
    assert "a dash means that no price is configured" in words and "$" not in words


def test_a_run_that_asked_no_model_says_so(tmp_path: Path) -> None:
    words = page(made_qa_run(str(tmp_path), 20, until="clean-text")).words
    assert "No stage of this run has asked a language model." in words
