"""A limit of rows is a count or a share, and one look at it says which."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from ray_pipeline.core.config import parse
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.shares import CountOrShare, StepsOrShare, count_of, in_words
from ray_pipeline.llm.config import Budget
from ray_pipeline.train.loop import LoopConfig

LIMIT: TypeAdapter[int | float | str] = TypeAdapter(CountOrShare)


@pytest.mark.parametrize(
    ("written", "allowed", "words"),
    [
        ("0", 0, "0"),
        ("1", 1, "1"),
        ("20", 20, "20"),
        ("5%", 10, "5%"),
        ("'0.5 %'", 1, "0.5%"),
        ("100%", 200, "100%"),
        ("0%", 0, "0%"),
        ("0.05", 10, "5%"),
        ("0.0", 0, "0%"),
        ("0.999", 199, "99.9%"),
    ],
)
def test_a_count_is_an_integer_and_a_share_a_percentage_or_a_fraction(
    written: str, allowed: int, words: str
) -> None:
    limit = LIMIT.validate_python(yaml.safe_load(written))
    assert count_of(limit, 200) == allowed
    assert in_words(limit) == words
    # Stored in the run directory and read again by `retry`.
    assert LIMIT.validate_python(yaml.safe_load(yaml.safe_dump(limit))) == limit


def test_a_share_is_not_one_row_short_because_of_binary_fractions() -> None:
    assert count_of("29%", 100) == count_of(0.29, 100) == 29  # int(0.29 * 100) is 28


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        (1.0, ["write 1 for a number of rows", '"100%" for a share']),
        (5.0, ["write 5 for", '"5%" for']),
        (1.5, ["a count (20) or a percentage"]),
        (1e6, ["a count (20) or a percentage"]),
        (float("inf"), ["a count (20) or a percentage"]),
        (float("nan"), ["greater than or equal to 0"]),
        (-1, ["greater than or equal to 0", "-1"]),
        (True, ["a count (20) or a percentage", "True"]),
        ("5", ["a count (20) or a percentage", "'5'"]),
        ("all", ["a count (20) or a percentage", "'all'"]),
        ("101%", ["less than or equal to 100%"]),
        (None, ["a count (20) or a percentage", "None"]),
    ],
)
def test_what_could_be_either_is_refused_with_what_to_write(value: Any, parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse({"max_failed_rows": value}, Budget, "config.yaml")
    for part in ("config.yaml: max_failed_rows: ", *parts):
        assert part in str(caught.value)


STEPS: TypeAdapter[int | float] = TypeAdapter(StepsOrShare)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("1000", 1000.0),
        ("1000.0", 1000.0),
        ("1", 1),
        ("0", 0.0),
        ("0.05", 0.05),
        ("5%", 0.05),
        ("29%", 0.29),
        ("0%", 0.0),
    ],
)
def test_steps_are_a_count_or_a_share_below_one(written: str, expected: float) -> None:
    steps = STEPS.validate_python(yaml.safe_load(written))
    # The type too: it is part of the fingerprint of trainings that exist.
    assert (steps, type(steps)) == (expected, type(expected))
    assert STEPS.validate_python(yaml.safe_load(yaml.safe_dump(steps))) == steps


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (1.0, "write 1 for one step"),
        (2.5, "a count (20) or a percentage"),
        (float("inf"), "a count (20) or a percentage"),
        (float("nan"), "greater than or equal to 0"),
        (-1, "greater than or equal to 0"),
        (True, "a count (20) or a percentage"),
        ("100%", "less than 100%"),
        ("5", "a count (20) or a percentage"),
    ],
)
def test_steps_that_could_be_either_are_refused(value: Any, part: str) -> None:
    with pytest.raises(UserError, match=re.escape("config.yaml: warmup: ")) as caught:
        parse({"warmup": value}, LoopConfig, "config.yaml")
    assert part in str(caught.value)
