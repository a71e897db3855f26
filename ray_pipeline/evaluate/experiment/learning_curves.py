"""When a training reaches a loss, by its learning curve."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from ray_pipeline.evaluate.experiment.cells import Point


@dataclass(frozen=True)
class Reached:
    """The point at which a curve first falls to a loss.

    Attributes:
        tokens: seen until then.
        seconds: of training until then.
        at_most: whether the first evaluation was already below the loss: then the figures are upper
            bounds.
    """

    tokens: float
    seconds: float
    at_most: bool = False


def reached(curve: Sequence[Point], loss: float) -> Reached | None:
    """Where a curve first falls to a loss; None if it never does.

    Between two evaluations the loss is interpolated linearly over tokens and seconds.

    Args:
        curve: finite evaluations in order.
        loss: the target.
    """
    if not curve:
        return None
    first = curve[0]
    if first.loss <= loss:
        # An evaluation before the first step is exact.
        return Reached(first.tokens, first.seconds, at_most=first.tokens > 0)
    for before, after in pairwise(curve):
        if after.loss <= loss:
            share = (before.loss - loss) / (before.loss - after.loss)
            return Reached(
                before.tokens + share * (after.tokens - before.tokens),
                before.seconds + share * (after.seconds - before.seconds),
            )
    return None


def common_loss(curves: Iterable[Sequence[Point]]) -> float | None:
    """The lowest loss that every curve reaches; None if a curve is empty, or there are none."""
    lowest = [min((point.loss for point in curve), default=None) for curve in curves]
    known = [loss for loss in lowest if loss is not None]
    return max(known) if known and len(known) == len(lowest) else None


def mean_curve(curves: Sequence[Sequence[Point]]) -> list[Point]:
    """The mean curve of several seeds: of their first, second, ..., last evaluations.

    Tokens and seconds are means, too: seeds see rows in different orders, so the same number of
    steps differs by a few tokens. The curve has as many points as the shortest one; of a longer
    curve the points at the same fractions are used.
    """
    number = min(map(len, curves), default=0)
    points = []
    for nth in range(number):
        share = nth / (number - 1) if number > 1 else 1.0
        at = [curve[round(share * (len(curve) - 1))] for curve in curves]
        means = (fmean(getattr(p, name) for p in at) for name in ("tokens", "seconds", "loss"))
        points.append(Point(*means))
    return points
