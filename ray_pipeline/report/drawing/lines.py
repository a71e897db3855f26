"""Figures with two numeric axes: curves over steps, and points over trials.

As in `charts`, only numbers and escaped texts are put into them, and their legends are HTML.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from markupsafe import Markup

#: One x, one y.
Point = tuple[float, float]
#: More than the drawing has room for are drawn as means: a long training makes no larger page.
_MOST_POINTS = 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 42.0, 10.0, 10.0, 22.0


@dataclass(frozen=True)
class Series:
    """Points that belong together.

    Attributes:
        kind: class of its shapes, which gives it colour and dashes.
        points: in the order of their x.
        shape: a line; a line with a mark at each point; a line that stays until the next point;
            marks alone.
    """

    kind: str
    points: Sequence[Point]
    shape: Literal["line", "marked", "stairs", "marks"] = "line"


@dataclass(frozen=True)
class Frame:
    """The plane of a figure: its size in units of the drawing, and what its axes show.

    Attributes:
        unit: what x counts, written at the beginning of its axis.
        x: first and last x.
        y: lowest and highest y.
        log: whether x, which is above 0 then, is on a logarithmic axis.
    """

    unit: str
    x: tuple[float, float]
    y: tuple[float, float]
    width: float = 340.0
    height: float = 170.0
    log: bool = False

    @classmethod
    def around(
        cls,
        unit: str,
        series: Sequence[Series],
        from_zero: bool = False,
        width: float = 340.0,
        height: float = 170.0,
        log: bool = False,
    ) -> Frame:
        """The plane that has room for all points, and for ``y = 0`` where asked for."""
        xs = [x for one in series for x, _ in one.points]
        ys = [y for one in series for _, y in one.points] + [0.0] * from_zero
        low, high = min(ys), max(ys)
        spare = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        # Nothing that is never negative gets an axis that is.
        bottom = max(0.0, low - spare) if low >= 0 else low - spare
        first, last = min(xs) if log else min([0.0, *xs]), max(xs)
        if log:  # nothing stands on the axis itself
            beyond = (last / first) ** 0.04
            first, last = first / beyond, last * beyond
        return cls(unit, (first, last), (bottom, high + spare), width, height, log)

    def across(self, x: float) -> float:
        """Place of an x in the drawing."""
        first, last = map(math.log, self.x) if self.log else self.x
        share = ((math.log(x) if self.log else x) - first) / ((last - first) or 1.0)
        return _LEFT + share * (self.width - _LEFT - _RIGHT)

    def down(self, y: float) -> float:
        """Place of a y in the drawing."""
        low, high = self.y
        share = (y - low) / ((high - low) or 1.0)
        return self.height - _BOTTOM - share * (self.height - _BOTTOM - _TOP)


def line_chart(frame: Frame, *shapes: str) -> Markup:
    """Draw shapes over a grid, the later ones on top.

    Args:
        frame: the plane.
        shapes: made by `curve`, `band`, `level`, `ring` and `error_bar`.
    """
    return Markup(
        f'<svg class="chart" viewBox="0 0 {frame.width:g} {frame.height:g}" aria-hidden="true">'
        f"{''.join([*_axes(frame), *shapes])}</svg>"
    )


def curve(frame: Frame, series: Series) -> str:
    """A series in its shape."""
    places = [(frame.across(x), frame.down(y)) for x, y in series.points]
    shapes = []
    if series.shape != "marks" and len(places) > 1:
        join = _stairs if series.shape == "stairs" else _straight
        shapes.append(f'<path class="line {series.kind}" d="{join(places)}"/>')
    # A line of one point cannot be seen.
    if series.shape in ("marks", "marked") or len(places) == 1:
        shapes += [
            f'<circle class="mark {series.kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>'
            for x, y in places
        ]
    return "".join(shapes)


def ring(frame: Frame, kind: str, point: Point) -> str:
    """A ring around a point."""
    x, y = frame.across(point[0]), frame.down(point[1])
    return f'<circle class="ring {kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'


def error_bar(frame: Frame, kind: str, x: float, low: float, high: float) -> str:
    """An upright line from one y to another, with ends."""
    at, top, bottom = frame.across(x), frame.down(high), frame.down(low)
    ends = "".join(f" M{at - 3:.1f},{y:.1f} h6" for y in (top, bottom))
    return f'<path class="line {kind} bar" d="M{at:.1f},{top:.1f} V{bottom:.1f}{ends}"/>'


def level(frame: Frame, kind: str, y: float) -> str:
    """A line across at one height."""
    at = f"M{_LEFT:g},{frame.down(y):.1f} H{frame.width - _RIGHT:g}"
    return f'<path class="line {kind}" d="{at}"/>'


def beyond(frame: Frame, kind: str, x: float) -> str:
    """A mark for a point above the plane."""
    at = f"M{frame.across(x) - 3.5:.1f},{_TOP:g} l3.5,-6 l3.5,6 Z"
    return f'<path class="mark {kind}" d="{at}"/>'


def thinned(points: Sequence[Point]) -> tuple[list[Point], list[tuple[float, float, float]], int]:
    """Points as means of so many neighbours that not too many are left.

    Returns:
        The means; x, lowest and highest y of those behind each, where they are several; and how
        many points there are behind each.
    """
    size = -(-len(points) // _MOST_POINTS) or 1
    if size == 1:
        return list(points), [], 1
    means, spans = [], []
    for first in range(0, len(points), size):
        group = points[first : first + size]
        ys = [y for _, y in group]
        x = group[-1][0]
        means.append((x, math.fsum(ys) / len(ys)))
        spans.append((x, min(ys), max(ys)))
    return means, spans, size


def band(frame: Frame, kind: str, spans: Sequence[tuple[float, float, float]]) -> str:
    """The area from the lowest to the highest y of each x."""
    there = [f"{frame.across(x):.1f},{frame.down(high):.1f}" for x, _, high in spans]
    back = [f"{frame.across(x):.1f},{frame.down(low):.1f}" for x, low, _ in reversed(spans)]
    return f'<path class="band {kind}" d="M{" L".join([*there, *back])} Z"/>' if spans else ""


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two numbers: multiples of 1, 2 or 5 of a power of ten."""
    span = high - low
    if span <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / most))
    steps = (factor * power for factor in (1, 2, 5, 10, 20))
    step = next(s for s in steps if math.floor(high / s) - math.ceil(low / s) < most)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _straight(places: Sequence[Point]) -> str:
    return "M" + " L".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _stairs(places: Sequence[Point]) -> str:
    (x, y), *rest = places
    return f"M{x:.1f},{y:.1f}" + "".join(f" H{x:.1f} V{y:.1f}" for x, y in rest)


def _axes(frame: Frame) -> list[str]:
    shapes = []
    end = frame.width - _RIGHT
    for y, label in _labelled(ticks(*frame.y, most=4)):
        at = frame.down(y)
        shapes.append(f'<path class="grid" d="M{_LEFT:g},{at:.1f} H{end:g}"/>')
        shapes.append(_text(_LEFT - 4, at + 3.5, "end", label))
    below = frame.height - 8
    for x, label in _across(frame):
        anchor = "end" if frame.across(x) > end - 12 else "middle"
        shapes.append(_text(frame.across(x), below, anchor, label))
    shapes.append(_text(_LEFT - 12, below, "end", frame.unit) if frame.unit else "")
    return shapes


def _across(frame: Frame) -> list[tuple[float, str]]:
    """Places on the lower axis with their labels."""
    if frame.log:
        return [(x, _labelled([x])[0][1]) for x in _log_ticks(*frame.x)]
    whole = [x for x in ticks(*frame.x, most=max(2, round(frame.width / 70))) if x == int(x)]
    return _labelled(whole)


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, or multiples of them where there are not two."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [factor * 10.0**power for power in powers for factor in factors]
        within = [x for x in found if low <= x <= high]
        if len(within) > 1:
            return within[:: -(-len(within) // 6)]
    return [low]


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{Markup.escape(text)}</text>'


def _labelled(values: Sequence[float]) -> list[tuple[float, str]]:
    """Round numbers with their texts, all in one notation: ``0.5 1.0``, ``5k 10k``, ``5e-5``."""
    highest = max(map(abs, values), default=0.0)
    if highest >= 1e4:
        size, unit = (1e6, "M") if highest >= 1e6 else (1e3, "k")
        return [(value, f"{value / size:,g}{unit}" if value else "0") for value in values]
    if 0 < highest < 1e-3:
        return [(value, _scientific(value)) for value in values]
    step = min((b - a for a, b in pairwise(values)), default=highest) or 1.0
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [(value, f"{value:,.{digits}f}" if value else "0") for value in values]


def _scientific(value: float) -> str:
    mantissa, exponent = f"{value:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}" if value else "0"
