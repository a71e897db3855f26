"""Small SVG figures. Only numbers and escaped texts are put into them; captions are HTML.

Figures with words in them are drawn 340 units wide, a phone's width, so that their words can be
read there; wider screens set several side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ray_pipeline.core.text import count

_WIDTH, _HEIGHT = 340.0, 150.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 42.0, 10.0, 16.0, 22.0
#: Of a column with its space.
_WIDEST = 56.0


def bar(*parts: tuple[str, float]) -> Markup:
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
    return Markup(
        '<svg class="meter" viewBox="0 0 101 10" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(shapes)}</svg>"
    )


@dataclass(frozen=True)
class Bins:
    """Equal bins from `low` to `high`, with labels on the axis below them."""

    low: float
    high: float
    number: int
    ticks: Sequence[tuple[float, str]]

    def counts(self, values: Sequence[tuple[float, int]]) -> list[int]:
        """Weights by bin; what lies outside counts in the first or last bin."""
        found = [0] * self.number
        for value, weight in values:
            place = int((value - self.low) / (self.high - self.low) * self.number)
            found[min(max(place, 0), self.number - 1)] += weight
        return found


def histogram(bins: Bins, series: Sequence[tuple[str, Sequence[int], int]], unit: str) -> Markup:
    """Bars by bin as shares, one series drawn over the other.

    Args:
        bins: as the series were counted.
        series: a class, counts, and the number that they are shares of; the class ``outline`` is
            drawn as a line.
        unit: what the axis below counts.
    """
    shares = [(kind, [n / (whole or 1) for n in counts]) for kind, counts, whole in series]
    highest = max((max(values, default=0.0) for _, values in shares), default=0.0) or 1.0
    shapes = [_grid(highest)]
    for kind, values in shares:
        draw = _outline if kind == "outline" else _bars
        shapes.append(draw(kind, [value / highest for value in values]))
    for value, label in bins.ticks:
        x = _across((value - bins.low) / (bins.high - bins.low))
        anchor = "end" if value == bins.high else "middle"
        shapes.append(f'<text x="{x:.1f}" y="{_HEIGHT - 8}" text-anchor="{anchor}">{label}</text>')
    end = _WIDTH - _RIGHT
    shapes.append(f'<text x="{end}" y="{_TOP - 5}" text-anchor="end">{Markup.escape(unit)}</text>')
    return _figure(shapes)


def columns(labels: Sequence[str], values: Sequence[int]) -> Markup:
    """Columns with their numbers above and labels below."""
    highest = max(values, default=0) or 1
    step = min((_WIDTH - 20) / max(len(labels), 1), _WIDEST)
    shapes = []
    for place, (label, value) in enumerate(zip(labels, values, strict=True)):
        height = (_HEIGHT - _BOTTOM - _TOP - 8) * value / highest
        x, y = 10 + step * place, _HEIGHT - _BOTTOM - height
        middle = x + step / 2
        shapes.append(
            f'<rect class="plain" x="{x + step * 0.15:.1f}" y="{y:.1f}" '
            f'width="{step * 0.7:.1f}" height="{height:.1f}"/>'
            f'<text x="{middle:.1f}" y="{y - 4:.1f}" text-anchor="middle">{count(value)}</text>'
            f'<text x="{middle:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">'
            f"{Markup.escape(label)}</text>"
        )
    return _figure(shapes)


def _figure(shapes: Sequence[str]) -> Markup:
    return Markup(
        f'<svg class="chart" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" aria-hidden="true">'
        f"{''.join(shapes)}</svg>"
    )


def _across(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _down(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)


def _grid(highest: float) -> str:
    lines = []
    for share in (0.0, 0.5, 1.0):
        y = _down(share)
        percent = f"{100 * highest * share:.{0 if highest >= 0.05 else 1}f}"
        lines.append(f'<path class="grid" d="M{_LEFT},{y:.1f} H{_WIDTH - _RIGHT}"/>')
        lines.append(
            f'<text x="{_LEFT - 4}" y="{y + 3.5:.1f}" text-anchor="end">{percent} %</text>'
        )
    return "".join(lines)


def _bars(kind: str, heights: Sequence[float]) -> str:
    shapes = []
    for place, height in enumerate(heights):
        if height:
            left, right = _across(place / len(heights)), _across((place + 1) / len(heights))
            y = _down(height)
            shapes.append(
                f'<rect class="{kind}" x="{left + 0.4:.1f}" y="{y:.1f}" '
                f'width="{right - left - 0.8:.1f}" height="{_down(0) - y:.1f}"/>'
            )
    return "".join(shapes)


def _outline(kind: str, heights: Sequence[float]) -> str:
    path = [f"M{_across(0):.1f},{_down(0):.1f}"]
    for place, height in enumerate(heights):
        path.append(f"V{_down(height):.1f} H{_across((place + 1) / len(heights)):.1f}")
    path.append(f"V{_down(0):.1f}")
    return f'<path class="{kind}" d="{" ".join(path)}"/>'
