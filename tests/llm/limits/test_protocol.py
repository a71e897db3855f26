"""Amounts of money."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline.llm.limits.protocol import picodollars


@given(st.floats(0, 100))
def test_picodollars_round_up(usd: float) -> None:
    assert picodollars(usd) / 1e12 >= usd - 1e-12
