"""The effect of selecting by quality: each subset against the same number of random rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from ray_pipeline.evaluate.experiment.cells import Group
from ray_pipeline.evaluate.experiment.effort import differences, effort, not_compared
from ray_pipeline.evaluate.statistics import (
    Difference,
    crossed_difference,
    holm,
    perplexity_of,
)


def against_random(
    subsets: Sequence[Group], controls: Sequence[Group], confidence: float
) -> list[dict[str, Any]]:
    """Compare each subset of a mode with its controls.

    Args:
        subsets: the smallest first.
        controls: all controls of all subsets.
        confidence: of the intervals; the verdicts' chance of an error is what it leaves.

    Returns:
        A comparison for each subset. ``difference`` of loss, subset minus control, by
        `crossed_difference`; the same as a ``perplexity_ratio``; ``p_value`` and ``p_adjusted`` by
        `holm` over all comparisons; ``covers``: what the interval carries the chance of; the
        ``verdict``: ``helps``, ``hurts``, ``undecided``, ``unknown`` (there is no interval) or
        ``not compared`` (``why`` says what is unequal); ``differs``: what the trainings differ in;
        and ``worth_random_rows``, the number of random rows with the same loss.
    """
    own = [[c for c in controls if c.first.of == group.first.subset] for group in subsets]
    reasons = [_unequal(group, draws) for group, draws in zip(subsets, own, strict=True)]
    found = [
        crossed_difference(group.losses, [draw.losses for draw in draws]) if why is None else None
        for group, draws, why in zip(subsets, own, reasons, strict=True)
    ]
    p_values = [None if one is None else one.p_value() for one in found]
    rows = zip(subsets, own, reasons, found, p_values, holm(p_values), strict=True)
    return [
        {
            "subset": group.first.subset,
            "rows": group.first.rows,
            "control": draws[0].first.subset if draws else None,
            "draws": len(draws),
            "effort": effort(group),
            "control_effort": [effort(draw) for draw in draws],
            "differs": differences(group, draws[0]) if draws else [],
            "why": why,
            "difference": None if one is None else one.estimate(confidence).to_json(),
            "perplexity_ratio": None
            if one is None
            else one.estimate(confidence).mapped(perplexity_of).to_json(),
            "p_value": p,
            "p_adjusted": adjusted,
            "comparisons": sum(p is not None for p in p_values),
            "covers": [] if one is None else covers(one),
            "verdict": "not compared" if why else _verdict(one, adjusted, 1 - confidence),
            "worth_random_rows": _worth(group, controls),
        }
        for group, draws, why, one, p, adjusted in rows
    ]


def _unequal(group: Group, draws: Sequence[Group]) -> str | None:
    """Why a subset is not compared with one of its controls; None if it may be."""
    reasons = (not_compared(group, draw) for draw in draws)
    return next((reason for reason in reasons if reason is not None), None)


def covers(difference: Difference) -> list[str]:
    """What the interval of a difference carries the chance of: empty where there is none."""
    chances = []
    if difference.seeds > 1:
        chances.append("seeds")
    if difference.draws > 1:
        chances.append("choice of random rows")
    return chances


def _verdict(difference: Difference | None, p_adjusted: float | None, error: float) -> str:
    if difference is None or p_adjusted is None:
        return "unknown"
    if p_adjusted >= error:
        return "undecided"
    return "helps" if difference.mean < 0 else "hurts"


def _worth(group: Group, controls: Sequence[Group]) -> dict[str, Any] | None:
    """The number of random rows with the same mean loss, interpolated linearly in log rows.

    Beyond the largest control it is ``more than`` its rows, below the smallest ``less than``.
    None where fewer than two sizes can be compared with the subset.
    """
    loss = _mean([group])
    of_size: dict[int, list[Group]] = {}
    for control in controls:
        if control.first.rows and not_compared(group, control) is None:
            of_size.setdefault(control.first.rows, []).append(control)
    known = [(rows, _mean(of_size[rows])) for rows in sorted(of_size)]
    if len(known) < 2:
        return None
    if loss > known[0][1]:
        return {"is": "less than", "rows": known[0][0]}
    for (rows, before), (more, after) in pairwise(known):
        if after <= loss <= before:
            share = 0.0 if before == after else (before - loss) / (before - after)
            at = math.exp((1 - share) * math.log(rows) + share * math.log(more))
            return {"is": "about", "rows": at}
    return {"is": "more than", "rows": known[-1][0]}


def _mean(groups: Sequence[Group]) -> float:
    """The mean loss of all trainings of groups."""
    losses = [loss for group in groups for loss in group.losses.values()]
    return math.fsum(losses) / len(losses)
