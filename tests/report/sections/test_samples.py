from __future__ import annotations

from pathlib import Path

import pytest
from support.html_page import page
from support.made_run import MadeRun
from support.made_trained_run import answers, made_trained_run, write_answers

from ray_pipeline.core.errors import RunError
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections import samples as module
from ray_pipeline.report.sections.samples import Samples

HELPED, HURT, APART, DRAWN = (
    "Where distilling helped most",
    "Where distilling hurt most",
    "Where the models differ most",
    "Chosen at random",
)


@pytest.fixture
def run(tmp_path: Path) -> MadeRun:
    return made_trained_run(str(tmp_path))


def read(run: MadeRun) -> Samples | None:
    return module.read(ReportReader(run.storage.root))


def found(run: MadeRun) -> Samples:
    section = read(run)
    assert section is not None
    return section


def test_rows_on_which_models_differ_come_first(run: MadeRun) -> None:
    groups = dict(found(run).groups)
    # Of the made answers, positions 2, 5, ... win by their number, and 0, 3, ... lose by it.
    assert [sample.question for sample in groups[HELPED]] == [
        f"What is {n}?" for n in (14, 11, 8, 5)
    ]
    assert [sample.question for sample in groups[HURT]] == [f"What is {n}?" for n in (15, 12, 9, 6)]
    assert [sample.question for sample in groups[APART]] == [f"What is {n}?" for n in (3, 2, 0)]
    drawn = [sample.row_id for sample in groups[DRAWN]]
    assert drawn == sorted(drawn) and len(drawn) == 4
    assert list(groups) == [HELPED, HURT, APART, DRAWN]


def test_wins_are_counted_on_all_rows(run: MadeRun) -> None:
    assert found(run).wins_losses_ties == (5, 6, 5)
    assert "higher than that of the student trained alone on 5 rows, lower on 6" in page(run).words


def test_every_models_answer_is_shown_as_it_is(run: MadeRun) -> None:
    sample = dict(found(run).groups)[HELPED][0]
    assert (sample.question, sample.reference) == ("What is 14?", "reference 14")
    labels = [answer.label for answer in sample.answers]
    assert labels == [
        "teacher",
        "student before training",
        "student, distilled",
        "student, trained alone",
    ]
    assert sample.answers[2].text == 'student says "14",\nat length'
    assert sample.answers[2].score == pytest.approx(0.65)


def test_the_order_of_the_file_does_not_matter(run: MadeRun) -> None:
    first = found(run)
    write_answers(run, [answers(position) for position in reversed(range(16))])
    assert found(run) == first


def test_cells_that_look_like_numbers_are_texts(run: MadeRun) -> None:
    write_answers(run, [answers(p, reference="007", student_answer="1e5") for p in range(3)])
    assert {s.reference for _, group in found(run).groups for s in group} == {"007"}


def test_without_both_students_the_spread_decides(run: MadeRun) -> None:
    rows = [answers(position) for position in range(16)]
    rows = [{n: v for n, v in row.items() if "alone" not in n} for row in rows]
    write_answers(run, rows)
    section = found(run)
    assert section.wins_losses_ties is None
    assert [title for title, _ in section.groups] == [APART, DRAWN]
    assert section.groups[0][1][0].question == "What is 15?"


def test_scores_may_be_missing(run: MadeRun) -> None:
    rows = [{n: v for n, v in answers(p).items() if "bleu" not in n} for p in range(3)]
    write_answers(run, rows)
    section = found(run)
    assert [title for title, _ in section.groups] == [DRAWN]
    assert section.groups[0][1][0].answers[0].score is None
    write_answers(run, [answers(p) | {"student_sentence_bleu": "nan"} for p in range(3)])
    assert found(run).wins_losses_ties is None


def test_a_large_file_is_read_in_part(run: MadeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS", 10)
    section = found(run)
    assert (section.rows, section.is_whole) == (10, False)
    assert "counted in the first 10 rows" in page(run).words


def test_long_texts_are_shortened(run: MadeRun) -> None:
    write_answers(run, [answers(0, reference="r" * 3_000_000)])
    assert len(found(run).groups[0][1][0].reference) == 400


def test_hostile_answers_stay_texts(run: MadeRun) -> None:
    hostile = "<script>alert(1)</script></p>\x1b[31m{{ 7 * 7 }}"
    write_answers(run, [answers(0, question=hostile, reference=hostile) | {"x_answer": hostile}])
    shown = page(run)
    assert "script" not in shown.names
    assert shown.text.count("<script>alert(1)</script></p>") == 3
    assert "\x1b" not in shown.text and "{{ 7 * 7 }}" in shown.text


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"row_id,question,reference,x_answer\n"])
def test_a_file_without_answers_has_no_section(run: MadeRun, content: bytes) -> None:
    run.storage.write_bytes(module.FILE, content)
    assert read(run) is None


def test_a_file_that_is_none_is_named(run: MadeRun) -> None:
    run.storage.write_bytes(module.FILE, b'row_id,question\n1,2,3,4\n"')
    with pytest.raises(RunError, match=module.FILE):
        read(run)
