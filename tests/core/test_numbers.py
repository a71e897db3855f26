from __future__ import annotations

import pytest

from ray_pipeline.core.numbers import finite


@pytest.mark.parametrize(("value", "number"), [(2, 2.0), (0.5, 0.5), (0, 0.0), (-1e300, -1e300)])
def test_numbers_are_floats(value: object, number: float) -> None:
    assert finite(value) == number and isinstance(finite(value), float)


@pytest.mark.parametrize(
    "value", [None, float("nan"), float("inf"), -float("inf"), True, False, "1", [1], {}]
)
def test_whatever_else_is_none(value: object) -> None:
    assert finite(value) is None
