from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline.report import drawing
from ray_pipeline.report.drawing import (
    Axis,
    Frame,
    binned,
    curve,
    error_bar,
    histogram,
    plot,
    thinned,
    ticks,
)

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


@given(NUMBERS, st.floats(1e-6, 1e6), st.integers(2, 6))
def test_ticks_are_few_round_numbers_inside(low: float, span: float, most: int) -> None:
    high = low + span
    found = ticks(low, high, most)
    slack = 1e-9 * max(1.0, abs(low), abs(high))
    assert len(found) <= most
    assert all(low - slack <= tick <= high + slack for tick in found)
    if len(found) > 1:
        step = found[1] - found[0]
        assert all(b - a == pytest.approx(step, rel=1e-6, abs=slack) for a, b in pairwise(found))


def test_ticks_say_something() -> None:
    assert ticks(0, 100, 5) == [0, 50, 100]
    assert ticks(0.12, 0.48, 4) == [0.2, 0.3, 0.4]
    assert ticks(0, 6.8e-5, 4) == [0, 2e-5, 4e-5, 6e-5]
    assert ticks(3, 3, 4) == [3]


def test_few_points_are_drawn_as_they_are() -> None:
    points = [(float(x), float(x * x)) for x in range(150)]
    assert thinned(points) == (points, [], 1)
    assert thinned([]) == ([], [], 1)


@given(st.lists(st.floats(-100, 100), min_size=151, max_size=1_000))
def test_many_points_become_means_with_what_lies_behind_them(values: list[float]) -> None:
    points = [(float(x), y) for x, y in enumerate(values)]
    means, spans, size = thinned(points)
    assert len(means) == len(spans) == math.ceil(len(points) / size) <= 150
    assert means[-1][0] == points[-1][0]
    assert min(low for _, low, _ in spans) == min(values)
    assert max(high for *_, high in spans) == max(values)
    assert means[0][1] == pytest.approx(sum(values[:size]) / size)


def test_every_point_lies_in_the_drawing() -> None:
    points = [(0, 5.0), (10, -3.0), (40, 12.5)]
    frame = Frame.around("step", points)
    for x, y in points:
        assert 42 <= frame.across(x) <= frame.width - 10
        assert 10 <= frame.down(y) <= frame.height - 22
    assert frame.down(12.5) < frame.down(5.0) < frame.down(-3.0)


def test_values_that_are_never_negative_have_no_negative_axis() -> None:
    assert Frame.around("step", [(1, 0.01), (2, 9.0)]).y.low == 0
    assert Frame.around("step", [(1, 3.0)], from_zero=True).y.low == 0
    assert Frame.around("step", [(1, -1.0), (2, 1.0)]).y.low < -1


def test_a_single_point_is_a_mark() -> None:
    frame = Frame.around("step", [(5, 2.0)])
    svg = plot(frame, curve(frame, "validated", [(5, 2.0)]))
    assert svg.count("<circle") == 1 and "line validated" not in svg


def test_stairs_stay_until_the_next_point() -> None:
    points = [(0, 3.0), (10, 2.0)]
    frame = Frame.around("trial", points)
    x, y = frame.across(10), frame.down(2.0)
    assert f"H{x:.1f} V{y:.1f}" in curve(frame, "best", points, "stairs")


def test_units_are_escaped() -> None:
    assert "<b>" not in plot(Frame.around("<b>", [(0, 1.0)]))
    assert "<b>" not in histogram(Axis(0, 1), [], [("plain", [1], 1)], "<b>")
    assert "<b>" not in drawing.columns(["<b>"], [1])
    assert "<b>" not in drawing.marker("c0", 1, 1, title="<b>")


@pytest.mark.parametrize(
    ("points", "labels"),
    [
        ([(0, 1.0), (8, 2.5)], ["1.0", "1.5", "2.0", "2.5"]),
        ([(0, 0.0), (8, 6.795e-5)], ["0", "2e-5", "4e-5", "6e-5"]),
        ([(0, 0.0), (8, 30_000.0)], ["0", "10k", "20k", "30k"]),
        ([(0, 2.31), (8, 2.38)], ["2.32", "2.34", "2.36", "2.38"]),
        ([(0, 4.0)], ["4"]),
    ],
)
def test_an_axis_is_in_one_notation(points: list[tuple[float, float]], labels: list[str]) -> None:
    svg = plot(Frame.around("step", points))
    found = [text.split(">")[1].split("<")[0] for text in svg.split("<text ")[1:]]
    # First the labels beside the drawing, then those below it, which begin with 0.
    assert found[: len(labels) + 1] == [*labels, "0"] and found[-1] == "step"


@pytest.mark.parametrize(
    ("xs", "labels"),
    [
        ((1e4, 1e5, 1e6), ["10k", "100k", "1M"]),
        ((200.0, 700.0), ["200", "500"]),
        ((5.0, 5.0), ["5"]),
        ((1.0, 1e12), None),
    ],
)
def test_a_logarithmic_axis_has_equal_factors_at_equal_distances(
    xs: tuple[float, ...], labels: list[str] | None
) -> None:
    frame = Frame.around("", [(x, 1.0) for x in xs], log=True)
    places = [frame.across(x) for x in xs]
    assert places == sorted(places) and all(42 <= place <= 330 for place in places)
    if len(xs) == 3:
        assert places[1] - places[0] == pytest.approx(places[2] - places[1])
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", plot(frame))
    assert labels is None or set(labels) <= set(texts)
    assert len(texts) < 14


def test_an_error_bar_goes_from_end_to_end() -> None:
    frame = Frame(Axis(0.0, 10.0), Axis(0.0, 4.0))
    bar = error_bar(frame, "best", (5.0, 1.0, 3.0))
    assert f",{frame.down(3.0):.1f} V{frame.down(1.0):.1f}" in bar and "best bar" in bar


def test_what_lies_beyond_an_axis_is_drawn_at_its_end() -> None:
    frame = Frame(Axis(0.0, 1.0), Axis(0.0, 1.0))
    inside, beyond = (drawing.dots(frame, [point]) for point in ((1.0, 0.0), (7.0, -3.0)))
    assert inside == beyond
    arrow = drawing.arrow_up(frame, "trial", 0.5)
    assert f"M{frame.across(0.5) - 3.5:.1f},{frame.top:g} " in arrow


@given(st.lists(st.tuples(st.floats(-2, 3), st.integers(0, 9)), max_size=50))
def test_bins_hold_all_weights(values: list[tuple[float, int]]) -> None:
    counts = binned(Axis(0.0, 1.0), 4, values)
    assert len(counts) == 4 and sum(counts) == sum(weight for _, weight in values)
    assert counts[0] >= sum(weight for value, weight in values if value < 0)
    assert counts[3] >= sum(weight for value, weight in values if value >= 1)


def test_a_histogram_shows_shares() -> None:
    svg = histogram(
        Axis(0.0, 1.0), [(0.0, "0")], [("plain", [3, 1, 0], 4), ("outline", [1, 1, 2], 4)]
    )
    assert svg.count('<rect class="plain"') == 2 and svg.count('class="outline"') == 1
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert texts == ["0 %", "38 %", "75 %", "0"]
    heights = [float(h) for h in re.findall(r'<rect[^>]*height="([\d.]+)"', svg)]
    assert heights[0] == pytest.approx(3 * heights[1], abs=0.2)


def test_an_axis_of_scores_leaves_out_extremes() -> None:
    assert Axis.of_scores([0.2, 0.9]) == Axis(0.0, 1.0)
    wide = Axis.of_scores([float(n) for n in range(1000)] + [1e9])
    assert 0 <= wide.low < 10 and 990 < wide.high < 2_000
    assert [label for _, label in Axis(0.5001, 0.5002).ends()] == ["0.5001", "0.5002"]


def test_a_meter_shows_the_least_share() -> None:
    svg = drawing.meter(("kept", 0.0001), ("dropped", 0.5), ("failed", 0.0))
    widths = [float(width) for width in re.findall(r'<rect[^>]*width="([\d.]+)"', svg)]
    assert widths == [0.6, 50.0]


def test_a_drawing_has_a_label_or_is_passed_over() -> None:
    assert 'role="img" aria-label="A &lt;map&gt;"' in drawing.svg([], 1, 1, label="A <map>")
    assert 'aria-hidden="true"' in drawing.svg([], 1, 1)
