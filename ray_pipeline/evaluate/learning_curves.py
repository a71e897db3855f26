"""When a training reaches a loss: read from its real learning curve, never scaled from its end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from ray_pipeline.evaluate.experiment_cells import Point


@dataclass(frozen=True)
class Reached:
    """The point at which a curve first comes down to a loss.

    Attributes:
        tokens: learnt until then.
        seconds: trained until then.
        at_most: whether the first evaluation was already below it, so that it was passed somewhere
            before: the figures are upper bounds.
    """

    tokens: float
    seconds: float
    at_most: bool = False


def reached(curve: Sequence[Point], loss: float) -> Reached | None:
    """Where a curve first comes down to a loss; None where it never does.

    Between two evaluations the loss is taken to fall in a straight line over tokens and seconds.

    Args:
        curve: finite evaluations in order.
        loss: the target.
    """
    if not curve:
        return None
    first = curve[0]
    if first.loss <= loss:
        # An evaluation before the first step is exact: nothing lies before it.
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
    """The lowest loss that every curve reaches; None where one has no evaluation, or none is."""
    lowest = [min((point.loss for point in curve), default=None) for curve in curves]
    known = [loss for loss in lowest if loss is not None]
    return max(known) if known and len(known) == len(lowest) else None


def mean_curve(curves: Sequence[Sequence[Point]]) -> list[Point]:
    """The mean over seeds, at the tokens where all of them were evaluated."""
    at: dict[float, list[Point]] = defaultdict(list)
    for curve in curves:
        for point in curve:
            at[point.tokens].append(point)
    return [
        Point(tokens, fmean(p.seconds for p in points), fmean(p.loss for p in points))
        for tokens, points in sorted(at.items())
        if len(points) == len(curves)
    ]
