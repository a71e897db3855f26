"""Intervals are scipy's; those of pairs are narrower where a seed's luck is common."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from support.soak import EXAMPLES

from ray_pipeline.evaluate.statistics import (
    crossed_difference,
    estimate,
    holm,
    paired_difference,
    perplexity_of,
)

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


SIDES = st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), min_size=2, max_size=9)


@given(SIDES, st.floats(0.5, 0.99))
@settings(max_examples=60, deadline=None)
def test_with_one_draw_it_is_the_paired_difference_and_its_p_is_scipys(
    sides: list[tuple[float, float]], confidence: float
) -> None:
    ours, others = (dict(enumerate(side)) for side in zip(*sides, strict=True))
    found = crossed_difference(ours, [others])
    paired = paired_difference(ours, others, confidence)
    assert found is not None and paired is not None
    estimated = found.estimate(confidence)
    assert (estimated.mean, estimated.low, estimated.high) == pytest.approx(
        (paired.mean, paired.low, paired.high)
    )
    if found.error is not None and found.error > 1e-6:
        expected = stats.ttest_rel(list(ours.values()), list(others.values())).pvalue
        assert found.p_value() == pytest.approx(expected)


def test_several_draws_widen_the_interval_by_what_they_differ() -> None:
    ours = {1: 2.0, 2: 2.1, 3: 1.9}
    equal = [{seed: loss + 0.5 for seed, loss in ours.items()}] * 3
    found = crossed_difference(ours, equal)
    assert found is not None and found.error == pytest.approx(0, abs=1e-9)
    assert (found.seeds, found.draws, found.mean) == (3, 3, pytest.approx(-0.5))

    apart = [{seed: loss + lead for seed, loss in ours.items()} for lead in (0.2, 0.5, 0.8)]
    found = crossed_difference(ours, apart)
    # By hand: the draws' mean square is 3 * 0.3**2, the seeds' 0; over 9 cells, 2 degrees.
    assert found is not None
    assert found.error == pytest.approx(math.sqrt(3 * 0.09 / 9))
    assert found.freedom == pytest.approx(2)
    single = crossed_difference(ours, apart[:1])
    assert single is not None and single.error == pytest.approx(0, abs=1e-9)

    one_seed = crossed_difference({1: 2.0}, [{1: 2.2}, {1: 2.5}, {1: 2.8, 2: 9.0}])
    assert one_seed is not None and (one_seed.seeds, one_seed.draws) == (1, 3)
    assert one_seed.error == pytest.approx(0.3 / math.sqrt(3))
    assert crossed_difference({1: 2.0}, [{1: 2.2}]).error is None  # type: ignore[union-attr]
    assert crossed_difference({1: 2.0}, []) is crossed_difference({1: 2.0}, [{2: 1.0}]) is None


@pytest.mark.parametrize(
    ("of_seed", "of_draw", "of_cell", "least"),
    [(1, 1, 1, 0.95), (1, 0, 1, 0.95), (0, 0, 1, 0.95), (1, 3, 0.3, 0.93), (3, 1, 0.3, 0.93)],
)
def test_the_interval_of_three_seeds_and_draws_holds_the_truth_as_often_as_it_says(
    of_seed: float, of_draw: float, of_cell: float, least: float
) -> None:
    random = np.random.default_rng(3)
    held = 0
    for _ in range(2_000):
        seeds, draws = of_seed * random.normal(size=3), of_draw * random.normal(size=3)
        values = -(seeds[:, None] + draws + of_cell * random.normal(size=(3, 3)))
        found = crossed_difference(
            dict.fromkeys(range(3), 0.0), [dict(enumerate(column)) for column in values.T]
        )
        assert found is not None
        low, high = found.estimate().low, found.estimate().high
        assert low is not None and high is not None
        held += low <= 0 <= high
    assert held >= least * 2_000


def test_holms_correction_by_its_definition() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([None, 0.5, None, 0.9]) == [None, 1.0, None, 1.0]
    assert holm([]) == [] and holm([0.2]) == [0.2]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 0.2))
@settings(max_examples=2 * EXAMPLES, deadline=None)
def test_holm_rejects_step_by_step(p_values: list[float], error: float) -> None:
    """Holm 1979: from the smallest p on, each while it is at most error / (hypotheses left)."""
    rejected = set()
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[place] * (len(p_values) - rank) > error:
            break
        rejected.add(place)
    assert {place for place, p in enumerate(holm(p_values)) if p is not None and p <= error} == (
        rejected
    )
