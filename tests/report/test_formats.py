from __future__ import annotations

import pytest

from ray_pipeline.report import formats


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.01, "< 0.1 s"),
        (0.42, "0.4 s"),
        (9.97, "10 s"),
        (59.7, "1 min"),
        (200, "3 min 20 s"),
        (7_500, "2 h 5 min"),
        (273_700, "3 d 4 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert formats.duration(seconds) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "$0.00"),
        (1234.5, "$1,234.50"),
        (0.12, "$0.12"),
        (0.0123, "$0.012"),
        (0.00012, "$0.00012"),
        (1e-9, "< $0.00001"),
    ],
)
def test_dollars(amount: float, text: str) -> None:
    assert formats.dollars(amount) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 10, "0 %"),
        (1, 3, "33.3 %"),
        (1, 100_000, "< 0.1 %"),
        (99_999, 100_000, "> 99.9 %"),
        (10, 10, "100 %"),
        (1, 0, "–"),
    ],
)
def test_share(part: int, whole: int, text: str) -> None:
    assert formats.share(part, whole) == text


def test_plain_text_has_no_control_characters() -> None:
    assert formats.plain("a\x1b[31mb\x9bc\nd") == "a�[31mb�c\nd"
    assert formats.plain(["x", 1]) == '["x",1]'
    assert formats.one_line("a \n b", 10) == "a b"
    assert formats.one_line("abcdef", 4) == "abc…"
