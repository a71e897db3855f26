"""Does a score predict what a model learns? Subsets of one size by several scores, compared.

Each ordering of the rows gives a subset of one size, on which models are trained with equal tokens
and updates. Over these subsets, and the random ones of their size, the mean of a score is compared
with the test loss by rank correlation; and again with the mean length held fixed, because long
rows have high scores, whatever else they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray_pipeline.evaluate.experiment.cells import Group
from ray_pipeline.evaluate.experiment.effort import effort, not_compared
from ray_pipeline.evaluate.statistics import CONFIDENCE, estimate, holm

#: The name of the length among scores.
LENGTH = "length"
#: Fewest subsets for a partial correlation: below, it has no degree of freedom.
_FEWEST = 4


@dataclass(frozen=True)
class RowScores:
    """What the rows to train on say of their scores and lengths.

    Attributes:
        rows: number of rows to train on.
        with_length: of each score, its rank correlation with the tokens of a row, over all rows;
            None where it is not defined.
        means: of each subset, the mean of each score and of the length over its rows; NaN where
            no row has the score.
    """

    rows: int
    with_length: Mapping[str, float | None]
    means: Mapping[str, Mapping[str, float]]


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation; None where there are fewer than three, or one is constant."""
    from scipy import stats

    if len(first) < 3 or len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(stats.spearmanr(first, second).statistic)


def partial(with_loss: float, with_length: float, length_with_loss: float) -> float | None:
    """The rank correlation of score and loss with length held fixed (Kendall 1942).

    None where length determines one of them.
    """
    left = (1 - with_length**2) * (1 - length_with_loss**2)
    if left <= 1e-12:
        return None
    return (with_loss - with_length * length_with_loss) / math.sqrt(left)


def p_value(correlation: float | None, number: int, held_fixed: int = 0) -> float | None:
    """Two-sided p of a rank correlation by Student's t, which is approximate for few subsets.

    Args:
        correlation: of ``number`` pairs.
        number: of pairs.
        held_fixed: variables that are held fixed.
    """
    from scipy import stats

    freedom = number - 2 - held_fixed
    if correlation is None or freedom < 1:
        return None
    if abs(correlation) >= 1:
        return 0.0
    t = correlation * math.sqrt(freedom / (1 - correlation**2))
    return float(2 * stats.t.sf(abs(t), freedom))


def by_orderings(
    groups: Sequence[Group], scores: RowScores, confidence: float = CONFIDENCE
) -> dict[str, Any] | None:
    """Compare scores by the subsets that they choose.

    Args:
        groups: of the mode ``tokens``: the smallest subset first, its random controls, and the
            subsets of all orderings.
        scores: of the rows.
        confidence: of the intervals.

    Returns:
        Plain data: the ``subsets`` with means and losses, what was ``not compared`` and why, a line
        for each of the ``scores``, ``length`` for itself, and ``sentences``. None without groups.
    """
    if not groups:
        return None
    reasons = {group.first.subset: not_compared(group, groups[0]) for group in groups[1:]}
    kept = [group for group in groups if reasons.get(group.first.subset) is None]
    points = [{**scores.means[g.first.subset], "loss": _loss(g)} for g in kept]
    lines = _lines(points, scores)
    return {
        "rows": groups[0].first.rows,
        "effort": effort(groups[0]),
        "subsets": [
            {
                "subset": group.first.subset,
                "means": {
                    name: value if math.isfinite(value) else None
                    for name, value in scores.means[group.first.subset].items()
                },
                "loss": estimate(list(group.losses.values()), confidence).to_json(),
            }
            for group in kept
        ],
        "not_compared": {name: why for name, why in reasons.items() if why is not None},
        "scores": lines,
        "length": {"with_loss": rank_correlation(*_columns(points, LENGTH, "loss"))},
        "sentences": _sentences(lines, len(kept), groups[0], scores),
    }


def _loss(group: Group) -> float:
    return math.fsum(group.losses.values()) / len(group.losses)


def _columns(points: Sequence[Mapping[str, float]], *names: str) -> list[list[float]]:
    """The values of some names over the points that have all of them."""
    whole = [point for point in points if all(math.isfinite(point[name]) for name in names)]
    return [[point[name] for point in whole] for name in names]


def _lines(points: Sequence[Mapping[str, float]], scores: RowScores) -> list[dict[str, Any]]:
    """Each score against loss and length, over the subsets that have it."""
    lines: list[dict[str, Any]] = []
    for name, of_rows in scores.with_length.items():
        values, lengths, losses = _columns(points, name, LENGTH, "loss")
        with_loss, with_length, length_with_loss = (
            rank_correlation(first, second)
            for first, second in ((values, losses), (values, lengths), (lengths, losses))
        )
        known = None not in (with_loss, with_length, length_with_loss)
        fixed = None
        if known and len(values) >= _FEWEST:
            fixed = partial(with_loss, with_length, length_with_loss)  # type: ignore[arg-type]
        lines.append(
            {
                "score": name,
                "subsets": len(values),
                "with_length_over_rows": of_rows,
                "with_length": with_length,
                "with_loss": with_loss,
                "p_value": p_value(with_loss, len(values)),
                "with_loss_at_fixed_length": fixed,
                "p_value_at_fixed_length": p_value(fixed, len(values), 1),
            }
        )
    for source, name in (
        ("p_value", "p_adjusted"),
        ("p_value_at_fixed_length", "p_adjusted_at_fixed_length"),
    ):
        for line, adjusted in zip(lines, holm([line[source] for line in lines]), strict=True):
            line[name] = adjusted
    return lines


def _sentences(
    lines: Sequence[Mapping[str, Any]], number: int, first: Group, scores: RowScores
) -> list[str]:
    """What the correlations say of the score, and what they cannot say."""
    said = []
    quality = next((line for line in lines if line["score"] == "quality"), None)
    if quality is not None and quality["with_length_over_rows"] is not None:
        of_rows = quality["with_length_over_rows"]
        said.append(
            f"How much of the score is length: over {scores.rows:,} rows the rank correlation of "
            f"quality with the number of tokens is {of_rows:+.2f}, which is "
            f"{of_rows**2:.0%} of the variance of its ranks."
        )
    if quality is not None and quality["with_loss"] is not None:
        fixed = quality["with_loss_at_fixed_length"]
        said.append(
            f"Does the score predict: over {quality['subsets']} subsets of {first.first.rows:,} "
            f"rows, each trained with {effort(first)['updates']} updates, the rank correlation of "
            f"mean quality with test loss is {quality['with_loss']:+.2f}"
            f"{_p(quality['p_adjusted'])}; with mean length held fixed it is "
            + ("not defined" if fixed is None else f"{fixed:+.2f}")
            + f"{_p(quality['p_adjusted_at_fixed_length'])}. Below 0, a higher score goes with a "
            "lower loss."
        )
    said.append(
        f"These are {number} subsets of one corpus that overlap, so the p-values (Student's t, "
        "with Holm's correction over the scores) are approximate; they carry neither the choice of "
        "the test rows nor another size."
    )
    return said


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return " (p < 0.001)" if value < 0.001 else f" (p {value:.3f})"
