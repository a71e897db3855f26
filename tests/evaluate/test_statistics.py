"""Intervals are scipy's; those of pairs are narrower where a seed's luck is common."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ray_pipeline.evaluate.statistics import estimate, paired_difference, perplexity_of

LOSSES = st.lists(st.floats(0.01, 20), min_size=2, max_size=12)


@given(LOSSES, st.floats(0.5, 0.99))
@settings(max_examples=60, deadline=None)
def test_an_interval_is_scipys(values: list[float], confidence: float) -> None:
    found = estimate(values, confidence)
    assert found.mean == pytest.approx(np.mean(values))
    if (error := stats.sem(values)) > 1e-9:
        low, high = stats.t.interval(confidence, len(values) - 1, np.mean(values), error)
        assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    found = estimate([3.0])
    assert (found.mean, found.low, found.high, found.number) == (3.0, None, None, 1)
    assert found.mapped(perplexity_of).low is None
    with pytest.raises(ValueError, match="nothing"):
        estimate([])


def test_pairs_take_a_seeds_luck_away() -> None:
    luck = {1: 0.5, 2: -0.4, 3: 0.1}
    ours = {seed: 2.0 + x for seed, x in luck.items()}
    others = {seed: 2.25 + x for seed, x in luck.items()} | {9: 99.0}
    found = paired_difference(ours, others)
    assert found is not None and found.number == 3
    assert found.mean == pytest.approx(-0.25)
    assert found.low == pytest.approx(-0.25) and found.high == pytest.approx(-0.25)
    assert paired_difference({1: 2.0}, {2: 2.0}) is None


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    held = 0
    for _ in range(1_000):
        found = estimate(draw.normal(3.0, 0.1, 3).tolist())
        held += found.low <= 3.0 <= found.high  # type: ignore[operator]
    assert 930 <= held <= 970


def test_a_loss_beyond_all_measure_is_an_infinite_perplexity() -> None:
    assert perplexity_of(1e6) == math.inf
