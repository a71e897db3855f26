"""Small scatter plots: how two measures of the same rows go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

_SIZE, _LEFT, _RIGHT, _TOP, _BOTTOM = 170.0, 34.0, 6.0, 8.0, 18.0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Axis:
    """What an axis shows: from `low` to `high`; values beyond lie on its ends."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float] | Floats) -> Axis:
        """From 0 to 1 where that fits; else so that all but a few extremes have room."""
        if len(values) and min(values) >= 0 and max(values) <= 1:
            return cls(0.0, 1.0)
        low, high = (float(edge) for edge in np.quantile(values, [0.005, 0.995]))
        spare = 0.05 * (high - low) or 0.5
        return cls(max(0.0, low - spare) if low >= 0 else low - spare, high + spare)

    def share(self, value: float) -> float:
        """Place of a value, 0 to 1."""
        return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)

    def labels(self) -> tuple[str, str]:
        """Its ends, as short numbers."""
        low, high = f"{self.low:.2g}", f"{self.high:.2g}"
        return (low, high) if low != high else (f"{self.low:.4g}", f"{self.high:.4g}")


def scatter(points: Sequence[tuple[float, float]], x: Axis, y: Axis) -> Markup:
    """Points as dots; both axes carry the numbers at their ends."""
    width, height = _SIZE - _LEFT - _RIGHT, _SIZE - _TOP - _BOTTOM
    bottom, right = _SIZE - _BOTTOM, _SIZE - _RIGHT
    # One path with a dot for each point, a fifth of the size of so many circles.
    dots = "".join(
        f"M{_LEFT + x.share(a) * width:.0f},{bottom - y.share(b) * height:.0f}h0" for a, b in points
    )
    texts = [
        (_LEFT, _SIZE - 6, "start", x.labels()[0]),
        (right, _SIZE - 6, "end", x.labels()[1]),
        (_LEFT - 4, bottom, "end", y.labels()[0]),
        (_LEFT - 4, _TOP + 8, "end", y.labels()[1]),
    ]
    labels = "".join(
        f'<text x="{at:g}" y="{down:g}" text-anchor="{anchor}">{Markup.escape(text)}</text>'
        for at, down, anchor, text in texts
    )
    frame = f'<path class="grid" d="M{_LEFT:g},{_TOP:g}V{bottom:g}H{right:g}"/>'
    return Markup(
        f'<svg class="chart" viewBox="0 0 {_SIZE:g} {_SIZE:g}" aria-hidden="true">'
        f'{frame}<path class="dots" d="{dots}"/>{labels}</svg>'
    )
