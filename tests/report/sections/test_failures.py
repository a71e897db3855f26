from __future__ import annotations

from pathlib import Path

import pytest
from support.html_page import page
from support.made_run import made_run

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.failures import read
from ray_pipeline.report.server_words import grouped
from ray_pipeline.rundir.journal_lines import encode, read_journal


def test_failed_rows_are_shown_with_what_the_model_answered(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    (line,) = read(ReportReader(run.storage.root)).lines
    (row,) = line.examples
    assert (line.stage, line.code, line.rows) == ("ask", "llm:unusable", 1)
    assert (row.row_id, row.reason) == (run.row_id(3), "llm:unusable: too short")
    assert [(answer.text, answer.rejected) for answer in row.answers] == [("!", True)]
    words = page(run).words
    assert "too short" in words  # the failure's detail
    assert "tiny-writer, answer 1, judged unusable, finish reason: stop !" in words


def test_long_answers_are_shortened(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    path = next(path for path in run.storage.list("responses", recursive=True) if "ask" in path)
    records, _ = read_journal(run.storage, path)
    long = [{**r, "text": "y" * 5_000} if r.get("text") == "!" else r for r in records]
    run.storage.write_bytes(path, b"".join(map(encode, long)))
    assert page(run).text.count("y" * 1_900) == 1 and "y" * 2_000 not in page(run).text


def test_without_failures_the_section_says_so(tmp_path: Path) -> None:
    run = made_run(str(tmp_path), ["one", "two spam"])
    assert read(ReportReader(run.storage.root)).lines == []
    assert "No row failed." in page(run).words


@pytest.mark.parametrize(
    ("detail", "message"),
    [
        (
            "HTTP 429: Limit 30000, used 29,871. Try again in 12.5s (after 8 tries)",
            "HTTP 429: Limit #, used #,#. Try again in #.#",
        ),
        ("HTTP 403: flagged for: violence", "HTTP 403: flagged for: violence"),
        (
            "HTTP 200 with an error 502: request req_7f3a-11 failed",
            "HTTP 200 with an error 502: request # failed",
        ),
        ("HTTP 503 (after 3 tries)", "HTTP 503"),
        ("no reply within 5 s (after 8 tries)", None),
        ("too short; the answer was 'HTTP 429: x'", None),
    ],
)
def test_words_of_servers_that_differ_in_numbers_are_one_message(
    detail: str, message: str | None
) -> None:
    assert grouped(detail) == message
