from __future__ import annotations

from pathlib import Path

import pytest
from support.html_page import page
from support.made_qa_run import made_qa_run

from ray_pipeline.report.grouping import Member
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.duplicates import read


def test_duplicates_are_those_of_the_ledger(tmp_path: Path) -> None:
    run = made_qa_run(str(tmp_path))
    section = read(ReportReader(run.storage.root))
    assert section is not None and section.is_whole
    assert section.reasons == run.accounts["deduplicate"].reasons
    assert section.groups == 9
    largest = section.largest[0]
    assert largest.rows == 1 + section.reasons["duplicate:near"]
    assert largest.representative is not None
    assert "case 3?" in question(largest.representative)
    similarities = [member.similarity or 0 for member in largest.members]
    assert similarities == sorted(similarities) and similarities[0] == pytest.approx(0.93)
    pair = section.largest[1]
    assert pair.representative is not None and pair.rows == 2
    # An exact duplicate asks the same question as the row that was kept, ten rows before.
    questions = [question(pair.representative), question(pair.members[0])]
    assert len({text.split("case ")[1] for text in questions}) == 1
    assert "near, similarity 0.93" in page(run).words


def question(member: Member) -> str:
    return dict(member.texts)["question"]


def test_a_run_without_duplicates_says_so(tmp_path: Path) -> None:
    assert "No duplicate was found." in page(made_qa_run(str(tmp_path), 20)).words


def test_without_the_column_there_is_no_section(tmp_path: Path) -> None:
    run = made_qa_run(str(tmp_path), 20, until="clean-text")
    assert read(ReportReader(run.storage.root)) is None
