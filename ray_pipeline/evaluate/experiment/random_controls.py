"""The effect of selecting by quality: each subset against the same number of random rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from ray_pipeline.evaluate.experiment.cells import Group
from ray_pipeline.evaluate.statistics import Estimate, paired_difference, perplexity_of


def against_random(
    group: Group, control: Group | None, controls: Sequence[Group], confidence: float
) -> dict[str, Any]:
    """Compare a subset with its control.

    Args:
        group: the subset.
        control: the subset's control; None if it has none.
        controls: all controls, the smallest first.
        confidence: of the interval.

    Returns:
        The ``difference`` of loss, subset minus control, paired by seed; the same as a
        ``perplexity_ratio``; the ``verdict``: ``helps``, ``hurts``, ``undecided`` (the interval
        contains 0) or ``unknown`` (there is no interval); and ``worth_random_rows``, the number of
        random rows with the same loss.
    """
    difference = (
        None if control is None else paired_difference(group.losses, control.losses, confidence)
    )
    ratio = None if difference is None else difference.mapped(perplexity_of).to_json()
    return {
        "subset": group.first.subset,
        "rows": group.first.rows,
        "control": None if control is None else control.first.subset,
        "difference": None if difference is None else difference.to_json(),
        "perplexity_ratio": ratio,
        "verdict": _verdict(difference),
        "worth_random_rows": _worth(group, controls),
    }


def _verdict(difference: Estimate | None) -> str:
    if difference is None or difference.low is None or difference.high is None:
        return "unknown"
    if difference.high < 0:
        return "helps"
    return "hurts" if difference.low > 0 else "undecided"


def _worth(group: Group, controls: Sequence[Group]) -> dict[str, Any] | None:
    """The number of random rows with the same mean loss, interpolated linearly in log rows.

    Beyond the largest control it is ``more than`` its rows, below the smallest ``less than``.
    """
    loss = _mean(group)
    known = [(each.first.rows, _mean(each)) for each in controls if each.first.rows]
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


def _mean(group: Group) -> float:
    return math.fsum(group.losses.values()) / len(group.losses)
