"""Contexts that a query does not ask for: at random, and hard ones that a retriever ranks high."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from ray_pipeline.core.config import Section
from ray_pipeline.evaluate.ranking import Floats, Ints, Judged
from ray_pipeline.evaluate.retrievers import Scores


class MiningConfig(Section):
    """Hard negatives: contexts that the base model ranks high and the judgements say are wrong."""

    per_query: int = Field(2, ge=0, description="hard negatives for each query; 0: none")
    skip: int = Field(
        0, ge=0, description="best-ranked candidates that are skipped: often unjudged positives"
    )
    depth: int = Field(50, ge=1, description="ranks that are searched for hard negatives")
    max_score: float | None = Field(
        None, ge=-1, le=1, description="highest cosine of a hard negative; null: any"
    )
    relative_margin: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="a hard negative's cosine is at most this fraction below that of the query's "
        "best positive, as 0.05; null: it may even be above",
    )


@dataclass(frozen=True)
class Mined:
    """The hard negatives of one query.

    Attributes:
        contexts: their numbers, the hardest first; int64.
        scores: their cosines.
        positive: the highest cosine of a relevant context.
        judged_away: candidates in the range that the judgements call at least partly relevant:
            without judgements they would have become negatives.
    """

    contexts: Ints
    scores: Floats
    positive: float
    judged_away: int


def mine(scores: Scores, judged: Judged, allowed: Sequence[bool], config: MiningConfig) -> Mined:
    """The hard negatives of one query among the allowed contexts.

    Args:
        scores: cosines of the query with all contexts; float [contexts].
        judged: contexts that are at least partly relevant; they are never negatives.
        allowed: which contexts may be negatives: those of the query's side.
        config: rank range, limits, number.
    """
    values = np.asarray(scores, np.float64)
    positive = float(values[judged.relevant].max())
    places = np.flatnonzero(np.asarray(allowed, bool))
    order = places[np.argsort(-values[places], kind="stable")][config.skip : config.depth]
    graded = np.isin(order, judged.contexts)
    order = order[~graded]
    if config.max_score is not None:
        order = order[values[order] <= config.max_score]
    if config.relative_margin is not None:
        order = order[values[order] <= positive * (1 - config.relative_margin)]
    chosen = order[: config.per_query]
    return Mined(chosen, values[chosen], positive, int(graded.sum()))


def at_random(
    judged: Judged, allowed: Sequence[bool], number: int, generator: np.random.Generator
) -> Ints:
    """Some of the allowed contexts that are not even partly relevant."""
    free = np.setdiff1d(np.flatnonzero(np.asarray(allowed, bool)), judged.contexts)
    return np.sort(generator.permutation(free)[:number])


def pooled(tops: Sequence[Ints], judged: Judged) -> Ints:
    """The contexts that any of several rankings has among its best, without graded ones."""
    return np.setdiff1d(np.unique(np.concatenate(tops)), judged.contexts)
