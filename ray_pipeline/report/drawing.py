"""All drawings of the report, as SVG.

A chart is a `Frame` (two axes and the space around them) and shapes on it: `curve`, `band`,
`bars`, `outline`, `dots`, `level`, `ring`, `error_bar`, `arrow_up`. `plot` puts them over a grid.
What has no axes stands at the end: `meter`, `columns`, `ribbon`, `marker` and `svg` itself.

A shape's colour comes from its class in ``style.css.j2``. Only numbers and escaped texts get into
a drawing; captions and legends are HTML. A chart is 340 units wide, the width of a phone, so that
its labels can be read there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from ray_pipeline.core.text import count

#: One x, one y.
Point = tuple[float, float]
#: One x with the lowest and the highest y there.
Span = tuple[float, float, float]
#: Places on an axis with their labels.
Ticks = Sequence[tuple[float, str]]
Floats = npt.NDArray[np.float64]

#: Longer curves are drawn as means: a long training makes no larger page.
_MOST_POINTS = 150
#: Width of a bar of `columns` with its space, at most.
_WIDEST = 56.0


@dataclass(frozen=True)
class Axis:
    """The range of an axis.

    Attributes:
        low: value at its beginning.
        high: value at its end.
        log: whether equal distances are equal factors; `low` is above 0 then.
    """

    low: float
    high: float
    log: bool = False

    @classmethod
    def of_scores(cls, values: Sequence[float] | Floats) -> Axis:
        """From 0 to 1 where all values fit; else with room for all but the 1 % most extreme."""
        if len(values) and min(values) >= 0 and max(values) <= 1:
            return cls(0.0, 1.0)
        low, high = (float(edge) for edge in np.quantile(values, [0.005, 0.995]))
        spare = 0.05 * (high - low) or 0.5
        return cls(max(0.0, low - spare) if low >= 0 else low - spare, high + spare)

    def share(self, value: float) -> float:
        """Place of a value: 0 at the beginning of the axis, 1 at its end."""
        if self.log:
            low, high, value = math.log(self.low), math.log(self.high), math.log(value)
        else:
            low, high = self.low, self.high
        return (value - low) / ((high - low) or 1.0)

    def clipped(self, value: float) -> float:
        """The value, or the end of the axis that it lies beyond."""
        return min(max(value, self.low), self.high)

    def ticks(self, most: int, whole: bool = False) -> Ticks:
        """At most `most` round numbers on the axis with their labels; whole ones only if asked."""
        if self.log:
            return [(value, _labels([value])[0]) for value in log_ticks(self.low, self.high)]
        values = ticks(self.low, self.high, most)
        values = [value for value in values if not whole or value == int(value)]
        return list(zip(values, _labels(values), strict=True))

    def ends(self) -> Ticks:
        """Its two ends, as short numbers."""
        labels = [f"{self.low:.2g}", f"{self.high:.2g}"]
        if labels[0] == labels[1]:
            labels = [f"{self.low:.4g}", f"{self.high:.4g}"]
        return [(self.low, labels[0]), (self.high, labels[1])]


@dataclass(frozen=True)
class Frame:
    """The plane of a chart, in units of the drawing.

    `left`, `right`, `top` and `bottom` are space for labels; `unit` is what x counts.
    """

    x: Axis
    y: Axis
    unit: str = ""
    width: float = 340.0
    height: float = 170.0
    left: float = 42.0
    right: float = 10.0
    top: float = 10.0
    bottom: float = 22.0

    @classmethod
    def around(
        cls,
        unit: str,
        points: Iterable[Point],
        from_zero: bool = False,
        log: bool = False,
        width: float = 340.0,
        height: float = 170.0,
    ) -> Frame:
        """The plane that has room for all points, and for ``y = 0`` where asked for."""
        xs, ys = zip(*points, strict=True)
        ys = (*ys, 0.0) if from_zero else ys
        low, high = min(ys), max(ys)
        spare = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        # Values that are never negative get no negative axis.
        bottom = max(0.0, low - spare) if low >= 0 else low - spare
        first, last = min(xs) if log else min(0.0, *xs), max(xs)
        if log:  # no point lies on the axis itself
            beyond = (last / first) ** 0.04
            first, last = first / beyond, last * beyond
        return cls(Axis(first, last, log), Axis(bottom, high + spare), unit, width, height)

    def across(self, x: float) -> float:
        """Place of an x in the drawing."""
        return self.left + self.x.share(x) * (self.width - self.left - self.right)

    def down(self, y: float) -> float:
        """Place of a y in the drawing."""
        plane = self.height - self.bottom - self.top
        return self.height - self.bottom - self.y.share(y) * plane


def plot(
    frame: Frame, *shapes: str, x_ticks: Ticks | None = None, y_ticks: Ticks | None = None
) -> Markup:
    """Draw shapes over a grid with labelled axes, the later ones on top.

    Args:
        frame: the plane.
        shapes: made by the functions below.
        x_ticks: places and labels on the lower axis; by default round, whole numbers.
        y_ticks: places and labels on the left axis, each with a line; by default round numbers.
    """
    drawn = []
    end = frame.width - frame.right
    for y, label in frame.y.ticks(4) if y_ticks is None else y_ticks:
        at = frame.down(y)
        drawn.append(f'<path class="grid" d="M{frame.left:g},{at:.1f} H{end:g}"/>')
        drawn.append(_text(frame.left - 4, at + 3.5, "end", label))
    below = frame.height - 8
    if x_ticks is None:
        x_ticks = frame.x.ticks(max(2, round(frame.width / 70)), whole=True)
    for x, label in x_ticks:
        at = frame.across(x)
        drawn.append(_text(at, below, "end" if at > end - 12 else "middle", label))
    if frame.unit:
        drawn.append(_text(frame.left - 12, below, "end", frame.unit))
    return svg([*drawn, *shapes], frame.width, frame.height)


def histogram(
    axis: Axis,
    x_ticks: Ticks,
    series: Sequence[tuple[str, Sequence[int], int]],
    unit: str = "",
) -> Markup:
    """Bars by bin as shares, one series drawn over the other.

    Args:
        axis: cut into as many equal bins as each series has counts.
        x_ticks: labels below the axis.
        series: a class, the count of each bin (see `binned`), and the number that they are shares
            of; the class ``outline`` is drawn as a line.
        unit: what the axis counts, written above the drawing: below there is no room for a word.
    """
    shares = [(kind, [n / (whole or 1) for n in counts]) for kind, counts, whole in series]
    highest = max((max(values, default=0.0) for _, values in shares), default=0.0) or 1.0
    frame = Frame(axis, Axis(0.0, highest), height=150.0, top=16.0)
    digits = 0 if highest >= 0.05 else 1
    y_ticks = [(y, f"{100 * y:.{digits}f} %") for y in (0.0, highest / 2, highest)]
    shapes = [
        (outline if kind == "outline" else bars)(frame, kind, values) for kind, values in shares
    ]
    shapes.append(_text(frame.width - frame.right, frame.top - 5, "end", unit) if unit else "")
    return plot(frame, *shapes, x_ticks=x_ticks, y_ticks=y_ticks)


def scatter(points: Sequence[Point], x: Axis, y: Axis) -> Markup:
    """A small square of points; both axes carry the numbers at their ends."""
    size, left, right, top, bottom = 170.0, 34.0, 6.0, 8.0, 18.0
    frame = Frame(x, y, "", size, size, left, right, top, bottom)
    corner = f'<path class="grid" d="M{left:g},{top:g}V{size - bottom:g}H{size - right:g}"/>'
    (_, x_low), (_, x_high) = x.ends()
    (_, y_low), (_, y_high) = y.ends()
    labels = [
        _text(left, size - 6, "start", x_low),
        _text(size - right, size - 6, "end", x_high),
        _text(left - 4, size - bottom, "end", y_low),
        _text(left - 4, top + 8, "end", y_high),
    ]
    return plot(frame, corner, dots(frame, points), *labels, x_ticks=(), y_ticks=())


def binned(axis: Axis, bins: int, values: Iterable[tuple[float, int]]) -> list[int]:
    """Weights by bin of an axis; values beyond it count in the first or last bin.

    Args:
        axis: cut into equal bins.
        bins: how many.
        values: each with its weight.
    """
    counts = [0] * bins
    for value, weight in values:
        place = int(axis.share(value) * bins)
        counts[min(max(place, 0), bins - 1)] += weight
    return counts


def curve(
    frame: Frame,
    kind: str,
    points: Sequence[Point],
    shape: Literal["line", "marked", "stairs"] = "line",
) -> str:
    """A line through points that are sorted by x; a single point, which has none, is a mark.

    Args:
        frame: the plane.
        kind: class of the shapes.
        points: to join.
        shape: a plain line, one with a mark at each point, or one that keeps its height until the
            next point.
    """
    places = [(frame.across(x), frame.down(y)) for x, y in points]
    shapes = []
    if len(places) > 1:
        join = _stairs if shape == "stairs" else _straight
        shapes.append(f'<path class="line {kind}" d="{join(places)}"/>')
    if shape == "marked" or len(places) == 1:
        shapes += [
            f'<circle class="mark {kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>' for x, y in places
        ]
    return "".join(shapes)


def ring(frame: Frame, kind: str, point: Point) -> str:
    """A ring around a point."""
    x, y = frame.across(point[0]), frame.down(point[1])
    return f'<circle class="ring {kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'


def error_bar(frame: Frame, kind: str, span: Span) -> str:
    """An upright line from the lowest y to the highest, with ends."""
    x, low, high = span
    at, top, bottom = frame.across(x), frame.down(high), frame.down(low)
    ends = "".join(f" M{at - 3:.1f},{y:.1f} h6" for y in (top, bottom))
    return f'<path class="line {kind} bar" d="M{at:.1f},{top:.1f} V{bottom:.1f}{ends}"/>'


def level(frame: Frame, kind: str, y: float) -> str:
    """A line across the plane at one height."""
    at = f"M{frame.left:g},{frame.down(y):.1f} H{frame.width - frame.right:g}"
    return f'<path class="line {kind}" d="{at}"/>'


def arrow_up(frame: Frame, kind: str, x: float) -> str:
    """A mark at the upper edge for a point above the plane."""
    at = f"M{frame.across(x) - 3.5:.1f},{frame.top:g} l3.5,-6 l3.5,6 Z"
    return f'<path class="mark {kind}" d="{at}"/>'


def band(frame: Frame, kind: str, spans: Sequence[Span]) -> str:
    """The area from the lowest to the highest y of each x."""
    upper = [f"{frame.across(x):.1f},{frame.down(high):.1f}" for x, _, high in spans]
    lower = [f"{frame.across(x):.1f},{frame.down(low):.1f}" for x, low, _ in reversed(spans)]
    return f'<path class="band {kind}" d="M{" L".join([*upper, *lower])} Z"/>' if spans else ""


def bars(frame: Frame, kind: str, heights: Sequence[float]) -> str:
    """A bar for each of the equal bins that the lower axis is cut into."""
    floor, step = frame.down(0), (frame.width - frame.left - frame.right) / len(heights)
    return "".join(
        f'<rect class="{kind}" x="{frame.left + place * step + 0.4:.1f}" '
        f'y="{frame.down(height):.1f}" width="{step - 0.8:.1f}" '
        f'height="{floor - frame.down(height):.1f}"/>'
        for place, height in enumerate(heights)
        if height
    )


def outline(frame: Frame, kind: str, heights: Sequence[float]) -> str:
    """The upper edge of such bars as one line."""
    step = (frame.width - frame.left - frame.right) / len(heights)
    path = [f"M{frame.left:.1f},{frame.down(0):.1f}"]
    for place, height in enumerate(heights):
        path.append(f"V{frame.down(height):.1f} H{frame.left + (place + 1) * step:.1f}")
    path.append(f"V{frame.down(0):.1f}")
    return f'<path class="{kind}" d="{" ".join(path)}"/>'


def dots(frame: Frame, points: Sequence[Point]) -> str:
    """A dot for each point; points beyond an axis lie on its end."""
    # One path with many dots is a fifth of the size of as many circles.
    path = "".join(
        f"M{frame.across(frame.x.clipped(x)):.0f},{frame.down(frame.y.clipped(y)):.0f}h0"
        for x, y in points
    )
    return f'<path class="dots" d="{path}"/>'


def thinned(points: Sequence[Point]) -> tuple[list[Point], list[Span], int]:
    """Few enough points to draw: where there are too many, means over neighbouring ones.

    Returns:
        The points or means; for each mean the range of the values behind it (empty where nothing
        was averaged); and how many points are behind each mean.
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


def ends_of(spans: Iterable[Span]) -> list[Point]:
    """The ends of spans as points, for a frame that has room for them."""
    return [(x, y) for x, low, high in spans for y in (low, high)]


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two numbers: multiples of 1, 2 or 5 times a power of ten."""
    span = high - low
    if span <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(span / most))
    steps = (factor * power for factor in (1, 2, 5, 10, 20))
    step = next(s for s in steps if math.floor(high / s) - math.ceil(low / s) < most)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(number * step, 12) for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between two numbers, or multiples of them where there are not two."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        values = [factor * 10.0**power for power in powers for factor in factors]
        within = [value for value in values if low <= value <= high]
        if len(within) > 1:
            return within[:: -(-len(within) // 6)]
    return [low]


def meter(*parts: tuple[str, float]) -> Markup:
    """A horizontal bar that stretches to its cell.

    Args:
        parts: a class and a share of the full width (0 to 1) for each piece, from the left.
    """
    shapes = []
    x = 0.0
    for kind, share in parts:
        width = max(100 * share, 0.6) if share > 0 else 0.0
        if width:
            shapes.append(
                f'<rect class="{kind}" x="{x:.2f}" y="0" width="{width:.2f}" height="10"/>'
            )
        x += width
    return svg(shapes, 101, 10, "meter", stretches=True)


def columns(labels: Sequence[str], values: Sequence[int]) -> Markup:
    """Upright bars with their numbers above and labels below."""
    width, height, bottom, top = 340.0, 150.0, 22.0, 16.0
    highest = max(values, default=0) or 1
    step = min((width - 20) / max(len(labels), 1), _WIDEST)
    shapes = []
    for place, (label, value) in enumerate(zip(labels, values, strict=True)):
        tall = (height - bottom - top - 8) * value / highest
        x, y = 10 + step * place, height - bottom - tall
        shapes += [
            f'<rect class="plain" x="{x + step * 0.15:.1f}" y="{y:.1f}" '
            f'width="{step * 0.7:.1f}" height="{tall:.1f}"/>',
            _text(x + step / 2, y - 4, "middle", count(value)),
            _text(x + step / 2, height - 8, "middle", label),
        ]
    return svg(shapes, width, height)


def ribbon(kind: str, above: Point, below: Point, bottom: float) -> str:
    """A ribbon that runs down and bends to another place and width.

    Args:
        kind: class of the shape.
        above: left edge and width at the top, which is 0.
        below: left edge and width at the bottom.
        bottom: where it ends.
    """
    (x, width), (to, end_width) = above, below
    middle = bottom / 2
    return (
        f'<path class="{kind}" d="M{x:.1f},0 C{x:.1f},{middle:g} {to:.1f},{middle:g} '
        f"{to:.1f},{bottom:g} H{to + end_width:.1f} C{to + end_width:.1f},{middle:g} "
        f'{x + width:.1f},{middle:g} {x + width:.1f},0 Z"/>'
    )


def marker(
    kind: str,
    x: float,
    y: float,
    shape: Literal["circle", "cross", "diamond", "triangle"] = "circle",
    title: str = "",
) -> str:
    """A mark on a map; `title` is shown when the pointer is on it."""
    hover = f"<title>{Markup.escape(title)}</title>" if title else ""
    if shape == "circle":
        return f'<circle class="{kind}" cx="{x:.0f}" cy="{y:.0f}" r="5">{hover}</circle>'
    path = {
        "cross": f"M{x - 8:.0f},{y - 8:.0f}l16,16m0,-16l-16,16",
        "diamond": f"M{x:.0f},{y - 10:.0f}l10,10l-10,10l-10,-10z",
        "triangle": f"M{x:.0f},{y - 10:.0f}l10,17h-20z",
    }[shape]
    return f'<path class="{kind}" d="{path}">{hover}</path>'


def svg(
    shapes: Sequence[str],
    width: float,
    height: float,
    kind: str = "chart",
    stretches: bool = False,
    label: str = "",
) -> Markup:
    """The element around shapes.

    Args:
        shapes: their elements.
        width: of the drawing, in its own units.
        height: likewise.
        kind: class of the element.
        stretches: whether it fills its place in both directions, whatever its own proportions.
        label: what a screen reader says; without one it passes the drawing over.
    """
    about = f'role="img" aria-label="{Markup.escape(label)}"' if label else 'aria-hidden="true"'
    ratio = ' preserveAspectRatio="none"' if stretches else ""
    return Markup(
        f'<svg class="{kind}" viewBox="0 0 {width:g} {height:g}"{ratio} {about}>'
        f"{''.join(shapes)}</svg>"
    )


def _straight(places: Sequence[Point]) -> str:
    return "M" + " L".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _stairs(places: Sequence[Point]) -> str:
    (x, y), *rest = places
    return f"M{x:.1f},{y:.1f}" + "".join(f" H{x:.1f} V{y:.1f}" for x, y in rest)


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{Markup.escape(text)}</text>'


def _labels(values: Sequence[float]) -> list[str]:
    """Round numbers as texts, all in one notation: ``0.5 1.0``, ``5k 10k``, ``5e-5``."""
    highest = max(map(abs, values), default=0.0)
    if highest >= 1e4:
        size, unit = (1e6, "M") if highest >= 1e6 else (1e3, "k")
        return [f"{value / size:,g}{unit}" if value else "0" for value in values]
    if 0 < highest < 1e-3:
        return [_scientific(value) for value in values]
    step = min((b - a for a, b in pairwise(values)), default=highest) or 1.0
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{value:,.{digits}f}" if value else "0" for value in values]


def _scientific(value: float) -> str:
    mantissa, exponent = f"{value:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}" if value else "0"
