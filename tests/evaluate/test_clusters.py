"""Means over families of rows: equal to the plain ones where each row is a family."""

from __future__ import annotations

import numpy as np
import pytest

from ray_pipeline.evaluate.clusters import clustered_mean
from ray_pipeline.evaluate.statistics import estimate


def test_with_a_family_a_row_it_is_students_interval() -> None:
    values = [0.3, 1.2, -0.4, 0.9]
    found, plain = clustered_mean(values, list("abcd")), estimate(values)
    assert found is not None
    assert found.estimate().mean == pytest.approx(plain.mean)
    assert found.estimate().low == pytest.approx(plain.low)


def test_rows_that_repeat_their_family_add_nothing() -> None:
    values = [0.3, 1.2, -0.4]
    once = clustered_mean(values, list("abc"))
    thrice = clustered_mean(values * 3, list("abc") * 3)
    assert once is not None and thrice is not None
    assert thrice.error == pytest.approx(once.error)
    assert thrice.families == 3 and thrice.p_value() == pytest.approx(once.p_value())


def test_a_ratio_of_sums_of_a_hand_checked_example() -> None:
    # 6 nats in 4 tokens: 1.5. Residuals 2 - 1.5, 4 - 4.5: squares .25 + .25, times 2 / 1.
    found = clustered_mean([2, 4], ["a", "b"], weights=[1, 3])
    assert found is not None
    assert found.mean == 1.5 and found.error == pytest.approx(1 / 4)


def test_the_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        sizes = random.integers(1, 6, 40)
        families = np.repeat(np.arange(40).astype(str), sizes)
        shared = np.repeat(random.normal(0, 1, 40), sizes)
        tokens = random.integers(5, 50, len(families))
        nats = (0.5 + shared) * tokens + random.normal(0, 2, len(families))
        found = clustered_mean(nats, families, tokens)
        assert found is not None
        low, high = found.estimate().low, found.estimate().high
        assert low is not None and high is not None
        held += low < 0.5 < high
    assert 0.90 < held / 400 < 0.98


def test_one_family_has_no_interval_and_no_row_no_mean() -> None:
    one = clustered_mean([1, 2], ["a", "a"])
    assert one is not None and one.error is None and one.p_value() is None
    assert one.estimate().low is None
    assert clustered_mean([], []) is None and clustered_mean([1], ["a"], [0]) is None
