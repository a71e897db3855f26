from __future__ import annotations

from ray_pipeline.core.errors import first_line, in_one_line, last_line


def test_lines_of_a_message() -> None:
    error = ValueError("  what failed\nwhere\n  why  \n")
    assert first_line(error) == "what failed"
    assert last_line(error) == "  why"
    assert in_one_line(error) == "what failed where why"
    assert in_one_line(error, 9) == "what fail"


def test_an_empty_message_is_the_type() -> None:
    assert first_line(KeyError()) == last_line(KeyError()) == "KeyError"
