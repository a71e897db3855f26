"""Training pairs of queries and contexts, their batches, and what a batch's losses need to know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from ray_pipeline.train.retrieval.losses import BatchLabels


@dataclass(frozen=True)
class TrainingPairs:
    """What is trained on.

    Attributes:
        queries: texts of the queries.
        contexts: texts of the contexts.
        pairs: number of a query and of a context that it asks for; int64 [pairs, 2].
        grades: contexts that a query asks for at least partly, with their grades, by query: none of
            them is a negative of it.
        hard: hard negatives of each query, by query.
    """

    queries: Sequence[str]
    contexts: Sequence[str]
    pairs: npt.NDArray[np.int64]
    grades: Mapping[int, Mapping[int, float]]
    hard: Mapping[int, Sequence[int]]

    def shuffled(self, seed: int) -> TrainingPairs:
        """The control: the same queries and contexts, each query with another one's context."""
        order = np.random.default_rng(seed).permutation(len(self.pairs))
        pairs = self.pairs.copy()
        pairs[:, 1] = pairs[order, 1]
        # What is masked, and what grade a pair has, follows the shuffled pairs.
        grades: dict[int, dict[int, float]] = {}
        for query, context in pairs.tolist():
            grades.setdefault(query, {})[context] = 1.0
        return replace(self, pairs=pairs, grades=grades)

    def batches(self, size: int, epoch: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
        """Numbers of the pairs of each batch of an epoch: every pair once, in random order."""
        order = np.random.default_rng([seed, epoch]).permutation(len(self.pairs))
        for first in range(0, len(order), size):
            yield order[first : first + size]

    def steps(self, size: int) -> int:
        """Number of batches in an epoch."""
        return -(-len(self.pairs) // size)


@dataclass(frozen=True)
class PairBatch:
    """The texts of a batch. Contexts that occur several times are encoded once.

    Attributes:
        queries: texts, one for each pair.
        contexts: texts.
        labels: which belong together.
    """

    queries: list[str]
    contexts: list[str]
    labels: BatchLabels


def pair_batch(data: TrainingPairs, numbers: npt.NDArray[np.int64]) -> PairBatch:
    """The batch of some pairs, with the hard negatives of their queries."""
    pairs = data.pairs[numbers].tolist()
    asked = [query for query, _ in pairs]
    shown = [context for _, context in pairs]
    for query in asked:
        shown.extend(data.hard.get(query, ()))
    contexts = list(dict.fromkeys(shown))
    place = {context: number for number, context in enumerate(contexts)}
    masked = torch.zeros(len(pairs), len(contexts), dtype=torch.bool)
    rows: list[tuple[int, int, float]] = []
    triplets: list[tuple[int, int, int, float]] = []
    for number, (query, own) in enumerate(pairs):
        grades = data.grades.get(query, {})
        for context in grades:
            if context != own and context in place:
                masked[number, place[context]] = True
        rows.append((number, place[own], grades.get(own, 1.0)))
        for negative in data.hard.get(query, ()):
            grade = grades.get(negative, 0.0)
            rows.append((number, place[negative], grade))
            triplets.append((number, place[own], place[negative], grades.get(own, 1.0) - grade))
    labels = BatchLabels(
        positive=torch.tensor([place[own] for _, own in pairs]),
        masked=masked,
        pairs=torch.tensor([row[:2] for row in rows], dtype=torch.int64).reshape(-1, 2),
        grades=torch.tensor([row[2] for row in rows], dtype=torch.float32),
        triplets=torch.tensor([row[:3] for row in triplets], dtype=torch.int64).reshape(-1, 3),
        margins=torch.tensor([row[3] for row in triplets], dtype=torch.float32),
    )
    return PairBatch(
        [data.queries[query] for query in asked], [data.contexts[n] for n in contexts], labels
    )
