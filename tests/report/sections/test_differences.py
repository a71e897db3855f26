from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from ray_pipeline.report.sections.differences import LONGEST, Piece, differences


def text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def changed(pieces: list[Piece]) -> list[str]:
    return [piece.text for piece in pieces if piece.kind == "changed"]


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
