"""What a retriever scores on the queries of a golden set, with intervals and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ray_pipeline.evaluate.query_statistics import Gain, gain_of, mean_of
from ray_pipeline.evaluate.ranking import METRICS, Floats, table
from ray_pipeline.evaluate.retrievers import Scores
from ray_pipeline.stages.retrieval.golden import GoldenSet

#: The metrics of the tables by kind of query and by what is new.
OF_GROUPS = ("mrr@10", "precision@1", "ndcg@5")
#: The metric by which models, parameters and epochs are chosen on the validation queries.
CHOOSE_BY = "ndcg@10"


@dataclass(frozen=True)
class Measured:
    """A retriever's metrics on some queries of one side.

    Attributes:
        numbers: of the queries, in the golden set.
        values: by metric, of each query; float64 [queries].
    """

    numbers: list[int]
    values: dict[str, Floats]


def measured(golden: GoldenSet, numbers: Sequence[int], scores: Scores, side: str) -> Measured:
    """Measure the scores of some queries of a side, over all contexts that the side may see.

    Args:
        golden: the golden set.
        numbers: of the queries.
        scores: of all contexts for these queries; float [queries, contexts].
        side: of the queries.
    """
    visible = golden.visible(side)
    # Those that the side may not see come last: no metric sees them.
    shown = scores if visible.all() else np.where(visible, scores, -np.inf)
    return Measured(list(numbers), table(shown, [golden.judged[number] for number in numbers]))


def chosen_by(golden: GoldenSet, numbers: Sequence[int], scores: Scores, side: str) -> float:
    """The mean of `CHOOSE_BY`: what everything that is chosen is chosen by."""
    return float(measured(golden, numbers, scores, side).values[CHOOSE_BY].mean())


def summary(golden: GoldenSet, one: Measured, seed: int) -> dict[str, Any]:
    """Means with intervals: of all queries, by kind, and by what is new."""
    queries = [golden.queries[number] for number in one.numbers]
    families = np.array([query.family for query in queries], object)
    groups = {
        "by_kind": np.array([query.kind for query in queries], object),
        "by_new": np.array([query.new or "nothing" for query in queries], object),
    }
    found: dict[str, Any] = {
        "queries": len(queries),
        "families": len(set(families)),
        "metrics": _means(one.values, METRICS, families, seed),
    }
    for name, of_query in groups.items():
        found[name] = {
            kind: {
                "queries": int((of_query == kind).sum()),
                **_means(
                    {m: one.values[m][of_query == kind] for m in OF_GROUPS},
                    OF_GROUPS,
                    families[of_query == kind],
                    seed,
                ),
            }
            for kind in sorted(set(of_query))
        }
    return found


def _means(
    values: Mapping[str, Floats], names: Sequence[str], families: Any, seed: int
) -> dict[str, Any]:
    return {
        name: mean_of(values[name], families.tolist(), seed).to_json()
        for name in names
        if not np.isnan(values[name]).all()
    }


def gains(golden: GoldenSet, ours: Measured, others: Measured, seed: int) -> dict[str, Gain]:
    """Paired differences by metric, ours minus others', on the same queries."""
    families = [golden.queries[number].family for number in ours.numbers]
    found = {
        name: gain_of(name, ours.values[name], others.values[name], families, seed)
        for name in METRICS
    }
    return {name: gain for name, gain in found.items() if gain is not None}
