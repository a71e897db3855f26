from __future__ import annotations

import pytest

from ray_pipeline.core import text as formats


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
    assert formats.plain("a\u202egpj.exe\u2066b") == "a�gpj.exe�b"
    assert formats.plain(["x", 1]) == '["x",1]'
    assert formats.one_line("a \n b", 10) == "a b"
    assert formats.one_line("abcdef", 4) == "abc…"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (1, "1.000"),
        (12.193, "12.19"),
        (0.76264, "0.7626"),
        (999.94, "999.9"),
        (999.96, "1,000"),
        (123_456.7, "123,457"),
        (12_000_000, "1.200e7"),
        (6.795e-5, "6.795e-5"),
        (-3.2, "-3.200"),
    ],
)
def test_figure(value: float | None, text: str) -> None:
    assert formats.figure(value) == text


def test_units() -> None:
    assert [formats.large(n) for n in (0, 950, 999.6, 62_000_000, 134_515_008, 1.7e9)] == [
        "0",
        "950",
        "1.0 k",
        "62.0 M",
        "135 M",
        "1.7 B",
    ]
    assert [formats.size(n) for n in (12, 538e6, 2.5e9)] == ["12 B", "538 MB", "2.5 GB"]
    assert [formats.latency(s) for s in (0.0382, 0.138, 0.9999, 12.3, 250)] == [
        "38.2 ms",
        "138 ms",
        "1.00 s",
        "12.3 s",
        "4 min 10 s",
    ]
