from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from support.html_page import page
from support.made_run import made_run

from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.sections.changes import LONGEST, Piece, differences, read


def text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def changed(pieces: list[Piece]) -> list[str]:
    return [piece.text for piece in pieces if piece.kind == "changed"]


def test_rows_are_shown_before_and_after_each_stage(tmp_path: Path) -> None:
    run = made_run(str(tmp_path))
    first, asked, augmented = read(ReportReader(run.storage.root))
    assert first.reads_source and first.stages == ("source", "tidy") and first.rows == []
    assert len(asked.rows) == 3 and not asked.reads_source
    row = asked.rows[0]
    (column,) = row.texts
    assert (column.column, text(column.after)) == ("text", f"{text(column.before)}, rewritten")
    assert changed(column.after) == [", rewritten"]
    assert row.added == []  # `original_text` repeats what stands before the change
    assert any(row.made_from is not None for row in augmented.rows)
    found = page(run)
    assert found.text.count("rewritten") >= 3 and "ins" in found.names
    assert "These stages read the source" in found.words


def test_a_run_that_has_only_begun_has_no_changes(tmp_path: Path) -> None:
    run = made_run(str(tmp_path), [])
    assert read(ReportReader(run.storage.root)) == []
    assert "No rows are committed yet." in page(run).words


def test_marks_the_words_that_differ() -> None:
    before, after = differences("the cat sat here", "the dog sat")
    assert changed(before) == ["cat", " here"]
    assert changed(after) == ["dog"]


def test_neighbouring_changes_are_one() -> None:
    before, after = differences("one two three", "one zwei drei")
    assert changed(before) == ["two three"]
    assert changed(after) == ["zwei drei"]


def test_long_texts_are_cut_around_the_first_difference() -> None:
    same = "word " * 1000
    before, after = differences(same + "cat", same + "dog")
    assert changed(before) == ["cat"] and changed(after) == ["dog"]
    assert len(text(before)) <= LONGEST + 2
    assert text(before).startswith("…")


@given(st.text(max_size=80), st.text(max_size=80))
def test_short_texts_stand_whole(before: str, after: str) -> None:
    left, right = differences(before, after)
    assert text(left) == before
    assert text(right) == after
