"""The quality threshold: the subset that is recommended, by a rule and by intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from ray_pipeline.evaluate.experiment.cells import Group
from ray_pipeline.evaluate.experiment.effort import differences, not_compared
from ray_pipeline.evaluate.statistics import (
    CONFIDENCE,
    Difference,
    Estimate,
    crossed_difference,
    estimate,
    holm,
    perplexity_of,
)


def by_rule(subsets: Sequence[Group], better_by: float) -> dict[str, Any]:
    """The original experiment's rule: the first subset with a perplexity 10% below the next larger.

    If there is none, it is the largest: quantity matters more than filtering.

    Args:
        subsets: the smallest subset, which has the best quality, first.
        better_by: the rule's 10%, as a fraction.

    Returns:
        The ``subset`` (null if there are not two to compare, or a step could not be taken),
        ``is_largest``, and each step's ``lower_by``: the fraction by which the smaller one's
        perplexity is below the larger one's; null where they are not compared, and ``why`` is why.
    """
    steps = [_rule_step(ours, larger) for ours, larger in pairwise(subsets)]
    if not steps or any(step["why"] for step in steps):
        return {"subset": None, "is_largest": False, "steps": steps}
    pays = next((step["subset"] for step in steps if step["lower_by"] > better_by), None)
    largest = subsets[-1].first.subset
    return {"subset": pays or largest, "is_largest": pays is None, "steps": steps}


def _rule_step(ours: Group, larger: Group) -> dict[str, Any]:
    why = not_compared(ours, larger)
    below = 1 - perplexity_of(_loss(ours).mean - _loss(larger).mean)
    return {
        "subset": ours.first.subset,
        "next": larger.first.subset,
        "lower_by": None if why else below,
        "why": why,
    }


def by_intervals(
    subsets: Sequence[Group], better_by: float, confidence: float = CONFIDENCE
) -> dict[str, Any]:
    """The smallest subset that is enough: better than the largest, or at most slightly worse.

    Each smaller subset's loss minus the largest one's, paired by seed, has an interval. *Much
    worse* is where the largest one would be better by the rule's 10%: a loss higher by
    ``-log(1 - better_by)``. A subset is

    - ``better``: the interval lies below 0;
    - ``enough``: it lies below that margin;
    - ``worse``: it lies above that margin;
    - ``undecided``: it spans the margin: more seeds are needed;
    - ``unknown``: there is no interval;
    - ``not compared``: the trainings are not equally long.

    The intervals are each one's own. A verdict stands only if its test is still significant after
    Holm's correction over all subsets: those against 0 are one family, those against the margin
    another.

    Returns:
        ``subset``: the smallest one that is better or enough, else the largest; null if all are
        unknown; ``margin``; and each ``comparison``.
    """
    margin = -math.log1p(-better_by)
    if len(subsets) < 2:
        return {"subset": None, "margin": margin, "comparisons": []}
    *smaller, largest = subsets
    reasons = [not_compared(group, largest) for group in smaller]
    found = [
        None if why else crossed_difference(group.losses, [largest.losses])
        for group, why in zip(smaller, reasons, strict=True)
    ]
    of_zero, of_margin = (
        holm([None if one is None else one.p_value(value) for one in found])
        for value in (0.0, margin)
    )
    comparisons = [
        {
            "subset": group.first.subset,
            "against": largest.first.subset,
            "difference": None if one is None else one.estimate(confidence).to_json(),
            "p_adjusted": {"zero": zero, "margin": at_margin},
            "differs": differences(group, largest),
            "why": why,
            "verdict": "not compared"
            if why
            else _verdict(one, margin, zero, at_margin, 1 - confidence),
        }
        for group, why, one, zero, at_margin in zip(
            smaller, reasons, found, of_zero, of_margin, strict=True
        )
    ]
    verdicts = {each["subset"]: each["verdict"] for each in comparisons}
    enough = [name for name, verdict in verdicts.items() if verdict in ("better", "enough")]
    chosen = enough[0] if enough else None
    if chosen is None and set(verdicts.values()) - {"unknown", "not compared"}:
        chosen = largest.first.subset
    return {"subset": chosen, "margin": margin, "comparisons": comparisons}


def _verdict(
    difference: Difference | None,
    margin: float,
    p_zero: float | None,
    p_margin: float | None,
    error: float,
) -> str:
    if difference is None or p_zero is None or p_margin is None:
        return "unknown"
    if p_zero < error and difference.mean < 0:
        return "better"
    if p_margin >= error:
        return "undecided"
    return "enough" if difference.mean < margin else "worse"


def _loss(group: Group) -> Estimate:
    return estimate(list(group.losses.values()))
