"""The law that losses were drawn from is found; where there is none, it says why."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.made_cells import law

from ray_pipeline.evaluate.experiment.scaling_law import NoLaw, ScalingLaw, fit

SIZES = [1e5, 1e6, 1e7, 1e8, 1e9]


def points(e: float, b: float, beta: float, seeds: int = 1, noise: float = 0.0) -> dict:
    draw = np.random.default_rng(3)
    return {
        seed: [(s, law(s, e, b, beta) * float(np.exp(draw.normal(0, noise)))) for s in SIZES]
        for seed in range(seeds)
    }


@given(st.floats(0.8, 4), st.floats(0.5, 5), st.floats(0.15, 0.8))
@settings(max_examples=25, deadline=None)
def test_a_law_without_noise_is_found(e: float, at_first: float, beta: float) -> None:
    b = at_first * SIZES[0] ** beta
    found = fit(points(e, b, beta))
    assert isinstance(found, ScalingLaw)
    assert found.residual < 1e-5
    assert (found.e, found.beta) == (pytest.approx(e, rel=0.01), pytest.approx(beta, rel=0.01))
    assert found.loss(1e7) == pytest.approx(law(1e7, e, b, beta), rel=1e-4)


def test_the_intervals_of_noisy_trainings_are_around_the_truth() -> None:
    found = fit(points(2.0, 400.0, 0.4, seeds=12, noise=0.005))
    assert isinstance(found, ScalingLaw)
    for name, truth in (("e", 2.0), ("beta", 0.4)):
        low, high = found.intervals[name]
        assert low < truth < high and high - low < 0.2
    assert found.remarks == ()


def test_one_stray_training_does_not_bend_the_law() -> None:
    made = points(2.0, 400.0, 0.4, seeds=4)
    made[2][3] = (made[2][3][0], 1.5 * made[2][3][1])
    found = fit(made, resamples=0)
    assert isinstance(found, ScalingLaw)
    assert found.beta == pytest.approx(0.4, rel=0.05)


def test_three_sizes_are_fitted_exactly_and_said_to_mean_little() -> None:
    made = {seed: of[:3] for seed, of in points(2.0, 400.0, 0.4, seeds=3, noise=0.01).items()}
    found = fit(made)
    assert isinstance(found, ScalingLaw) and found.sizes == 3
    assert any("3 sizes" in remark for remark in found.remarks)
    assert any("too narrow" in remark for remark in found.remarks)
    alone = fit({0: made[0]})
    assert isinstance(alone, ScalingLaw) and alone.intervals == {}
    assert alone.residual < 1e-6
    assert any("one seed" in remark for remark in alone.remarks)


def test_without_three_sizes_or_a_fall_there_is_no_law() -> None:
    two = fit({0: [(1e5, 3.0), (1e6, 2.5)], 1: [(1e5, 3.1), (1e6, 2.6)]})
    assert isinstance(two, NoLaw) and "different sizes number 2" in two.why
    assert "number 0" in fit({}).to_json()["why"]
    rising = fit({0: [(1e5, 2.0), (1e6, 2.5), (1e7, 3.0)]})
    assert isinstance(rising, NoLaw) and "does not fall" in rising.why


def test_a_straight_line_in_logs_is_a_law_without_a_rest() -> None:
    found = fit(points(0.0, 100.0, 0.2))
    assert isinstance(found, ScalingLaw) and found.e < 0.01
    assert any("E is at 0" in remark for remark in found.remarks)


def test_the_drawing_is_that_of_its_seed() -> None:
    made = points(2.0, 400.0, 0.4, seeds=5, noise=0.01)
    assert fit(made, 30, seed=1) == fit(made, 30, seed=1)
