"""Metrics of rankings: where the contexts that a query asks for stand among all of them.

Relevance is graded, from 0 to 1. Binary metrics take grades of `RELEVANT` and more for relevant,
NDCG has linear gains (trec_eval's): a grade of 0.5 is worth half. Cut-offs are part of the names.

Ties are pessimistic: of contexts with equal scores the less relevant ones come first. A retriever
that gives every context the same score gets the worst value, not the best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: The grade from which a context is relevant to binary metrics.
RELEVANT = 1.0
#: The metrics, in the order in which they are shown.
METRICS = (
    "mrr@10",
    "precision@1",
    "precision@5",
    "recall@10",
    "recall@50",
    "ndcg@5",
    "ndcg@10",
    "map",
)
#: Relevant contexts that a query must have for ``precision@5``: with fewer it cannot reach 1.
_FOR_PRECISION_5 = 5


@dataclass(frozen=True)
class Judged:
    """What is known about one query: contexts by number, with grades above 0.

    Attributes:
        contexts: numbers of the graded contexts; int64 [graded].
        grades: float64 [graded].
    """

    contexts: Ints
    grades: Floats

    @classmethod
    def of(cls, grades: Mapping[int, float]) -> Judged:
        """From a mapping; grades of 0 are left out."""
        graded = {context: grade for context, grade in grades.items() if grade > 0}
        return cls(np.array(list(graded), np.int64), np.array(list(graded.values()), np.float64))

    @property
    def relevant(self) -> Ints:
        """Numbers of the contexts that binary metrics count."""
        return self.contexts[self.grades >= RELEVANT]


def ranks(scores: npt.NDArray[np.floating], judged: Judged) -> Ints:
    """The ranks, from 1, of a query's graded contexts among all contexts; int64 [graded].

    Args:
        scores: of all contexts; float [contexts]. Not a number counts as the lowest score.
        judged: the graded contexts.
    """
    scores = np.where(np.isnan(scores), -np.inf, scores)
    ordered = np.sort(scores)
    own = scores[judged.contexts]
    upto = np.searchsorted(ordered, own, "right")
    ahead = len(scores) - upto
    tied = upto - np.searchsorted(ordered, own, "left")
    # Within a tie: all that are not graded, then the graded ones, the worse first.
    order = np.lexsort((judged.grades, -own))
    found = np.zeros(len(own), np.int64)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and own[order[end]] == own[order[start]]:
            end += 1
        graded = end - start
        first = ahead[order[start]] + tied[order[start]] - graded
        found[order[start:end]] = first + 1 + np.arange(graded)
        start = end
    return found


def metrics(scores: npt.NDArray[np.floating], judged: Judged) -> dict[str, float]:
    """The metrics of one query by `METRICS`; ``precision@5`` is NaN with fewer than 5 relevant.

    Args:
        scores: of all contexts; float [contexts].
        judged: what is relevant; at least one context with a grade of `RELEVANT`.

    Raises:
        ValueError: no context is relevant.
    """
    return of_ranks(ranks(scores, judged), judged)


def of_ranks(ranked: Ints, judged: Judged) -> dict[str, float]:
    """The metrics of one query from the `ranks` of its graded contexts."""
    relevant = np.sort(ranked[judged.grades >= RELEVANT])
    number = len(relevant)
    if not number:
        raise ValueError("the query has no relevant context")
    return {
        "mrr@10": 1 / relevant[0] if relevant[0] <= 10 else 0.0,
        "precision@1": float(relevant[0] == 1),
        "precision@5": (relevant <= 5).sum() / 5 if number >= _FOR_PRECISION_5 else math.nan,
        "recall@10": (relevant <= 10).sum() / number,
        "recall@50": (relevant <= 50).sum() / number,
        "ndcg@5": _ndcg(ranked, judged.grades, 5),
        "ndcg@10": _ndcg(ranked, judged.grades, 10),
        "map": float(np.mean(np.arange(1, number + 1) / relevant)),
    }


def _ndcg(ranked: Ints, grades: Floats, cutoff: int) -> float:
    top = ranked <= cutoff
    gain = float(np.sum(grades[top] / np.log2(ranked[top] + 1)))
    ideal = np.sort(grades)[::-1][:cutoff]
    return gain / float(np.sum(ideal / np.log2(np.arange(2, len(ideal) + 2))))


def table(scores: npt.NDArray[np.floating], judged: Sequence[Judged]) -> dict[str, Floats]:
    """The metrics of several queries: by metric, float64 [queries].

    Args:
        scores: float [queries, contexts].
        judged: of each query.
    """
    lines = [metrics(row, known) for row, known in zip(scores, judged, strict=True)]
    return {name: np.array([line[name] for line in lines], np.float64) for name in METRICS}


def mean_reciprocal_rank_of_all(ranked: Ints) -> float:
    """The mean of 1/rank over *all* relevant contexts, which is not MRR.

    MRR looks at the first relevant context only, so it is never below precision@1. The original
    experiment reports an MRR of 0.193 beside a precision@1 of 0.547 on one ranking. Its data is not
    published; this mean is one reading that can give such a pair: with 18 relevant contexts in the
    first 18 places it is 0.194, while precision@1 is 1.
    """
    return float(np.mean(1 / ranked))
