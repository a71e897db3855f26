"""Where a curve comes down to a loss is read between its points."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_pipeline.evaluate.experiment.cells import Point
from ray_pipeline.evaluate.experiment.learning_curves import (
    Reached,
    common_loss,
    mean_curve,
    reached,
)


def falling(evaluations: int, first: float = 10.0, last: float = 2.0) -> list[Point]:
    """A straight line over a thousand tokens and fifty seconds."""
    shares = [place / evaluations for place in range(evaluations + 1)]
    return [Point(1_000 * x, 50 * x, first + x * (last - first)) for x in shares]


@given(st.integers(1, 40), st.floats(2.0, 9.99))
@settings(max_examples=60, deadline=None)
def test_on_a_straight_line_it_is_exact_however_often_was_evaluated(
    evaluations: int, loss: float
) -> None:
    found = reached(falling(evaluations), loss)
    assert found is not None and not found.at_most
    assert found.tokens == pytest.approx(1_000 * (10 - loss) / 8)
    assert found.seconds == pytest.approx(50 * (10 - loss) / 8)


def test_it_is_the_first_time_that_counts() -> None:
    losses = [5.0, 3.0, 4.0, 2.0]
    curve = [Point(100 * n, n, loss) for n, loss in enumerate(losses)]
    assert reached(curve, 3.5) == Reached(75.0, 0.75)


def test_a_curve_that_stays_above_never_arrives() -> None:
    assert reached(falling(4), 1.99) is None
    assert reached([], 5.0) is None


def test_what_the_first_evaluation_has_passed_is_an_upper_bound() -> None:
    later = falling(4)[1:]
    assert reached(later, 9.0) == Reached(later[0].tokens, later[0].seconds, at_most=True)
    # Before the first step there was nothing to pass.
    assert reached(falling(4), 10.0) == Reached(0.0, 0.0)


def test_every_curve_reaches_the_common_loss_and_no_lower_one() -> None:
    curves = [falling(4), falling(5, last=3.0), falling(3, last=2.5)]
    loss = common_loss(curves)
    assert loss == pytest.approx(3.0)
    assert all(reached(curve, loss) for curve in curves)
    assert not all(reached(curve, loss - 1e-9) for curve in curves)
    assert common_loss([falling(2), []]) is None and common_loss([]) is None


def test_the_mean_of_curves_pairs_evaluations_not_tokens() -> None:
    found = mean_curve([falling(4), falling(2, first=12.0)])
    assert [point.tokens for point in found] == [0, 500, 1_000]
    assert [point.loss for point in found] == pytest.approx([11.0, 6.5, 2.0])
    # Seeds learn other numbers of tokens in the same steps: their curves once had no mean at all.
    seeds = [[Point(tokens * n, n, 10 - n) for n in (1, 2, 3)] for tokens in (99, 100, 104)]
    assert mean_curve(seeds) == [Point(101 * n, n, 10 - n) for n in (1, 2, 3)]
    assert mean_curve([falling(4), []]) == mean_curve([]) == []
