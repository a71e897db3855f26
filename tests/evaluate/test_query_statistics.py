"""Intervals and paired tests over families of queries."""

from __future__ import annotations

import numpy as np
import pytest

from ray_pipeline.evaluate.query_statistics import adjusted, gain_of, mean_of


def test_queries_of_one_family_make_the_interval_no_narrower() -> None:
    values = np.random.default_rng(1).random(40)
    alone = mean_of(values, [str(n) for n in range(40)], 7)
    copied = mean_of(np.repeat(values, 5), [str(n) for n in range(40) for _ in range(5)], 7)
    as_if = mean_of(np.repeat(values, 5), [str(n) for n in range(200)], 7)
    assert alone.low is not None and alone.high is not None
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high))
    assert as_if.high is not None and as_if.low is not None
    assert as_if.high - as_if.low < 0.6 * (alone.high - alone.low)


def test_a_difference_counts_who_won_and_leaves_out_what_has_no_value() -> None:
    ours, others = np.array([1.0, 0.5, np.nan, 0.2]), np.array([0.5, 0.5, 1.0, 0.4])
    gain = gain_of("mrr@10", ours, others, ["a", "b", "c", "d"], 0)
    assert gain is not None
    assert (gain.won, gain.lost, gain.queries) == (1, 1, 3)
    assert gain.mean == pytest.approx(0.1)
    assert gain_of("x", np.array([np.nan]), np.array([1.0]), ["a"], 0) is None


def test_p_is_small_for_a_constant_lead_and_not_for_one_family() -> None:
    lead = np.full(30, 0.1)
    many = gain_of("m", lead, np.zeros(30), [str(n) for n in range(30)], 0)
    one = gain_of("m", lead, np.zeros(30), ["same"] * 30, 0)
    assert many is not None and many.p < 0.001 and many.low == pytest.approx(0.1)
    assert one is not None and one.p == 1 and one.low is None
    assert adjusted({"a": many, "b": many})["a"] == pytest.approx(2 * many.p)


def test_under_no_difference_p_is_uniform() -> None:
    small = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        values = generator.normal(size=(2, 25))
        gain = gain_of("m", values[0], values[1], [str(n) for n in range(25)], seed)
        assert gain is not None
        small += gain.p < 0.1
    assert 3 <= small <= 18
