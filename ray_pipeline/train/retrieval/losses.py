"""Losses of embedding models, by the names that sentence-transformers has for them.

They are computed on embeddings of a whole batch, whichever rank encoded a text: so a loss is the
same on one worker and on several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from ray_pipeline.core.config import Section

LossName = Literal["multiple-negatives", "cosine-similarity", "cosent", "margin-mse"]


class LossConfig(Section):
    """The loss of a fine-tuning."""

    name: LossName = Field(
        "multiple-negatives",
        description="multiple-negatives: the query's context against all others of the batch, "
        "without those that the judgements call relevant to it; cosine-similarity: squared error "
        "of the cosine to the grade; cosent: pairs with a higher grade have a higher cosine; "
        "margin-mse: the margin between positive and negative is that of their grades",
    )
    scale: float = Field(
        20.0,
        gt=0,
        description="factor of cosines in multiple-negatives and cosent: 1 / temperature",
    )
    margin: float = Field(
        0.5,
        gt=0,
        description="cosine margin that a difference of 1 between grades has in margin-mse",
    )
    matryoshka: tuple[int, ...] = Field(
        (),
        description="numbers of first dimensions at which the loss is added up, so that cut "
        "vectors rank well too, such as [384, 128, 64]; empty: all dimensions only",
    )


@dataclass(frozen=True)
class BatchLabels:
    """What is known of the texts of a batch.

    Attributes:
        positive: for each query, the row of its own context among the batch's contexts; int64
            [queries].
        masked: contexts that are no negatives of a query; bool [queries, contexts]. False for its
            own context.
        pairs: query, context and grade of each pair that the losses of pairs look at; int64
            [pairs, 2] and float32 [pairs].
        grades: see ``pairs``.
        triplets: query, positive and negative; int64 [triplets, 3].
        margins: difference of the grades of each triplet; float32 [triplets].
    """

    positive: Tensor
    masked: Tensor
    pairs: Tensor
    grades: Tensor
    triplets: Tensor
    margins: Tensor


def batch_loss(
    queries: Tensor, contexts: Tensor, labels: BatchLabels, config: LossConfig
) -> Tensor:
    """The loss of a batch; a scalar.

    Args:
        queries: embeddings, float [queries, dimensions].
        contexts: embeddings of all contexts of the batch, float [contexts, dimensions].
        labels: what is known of them.
        config: the loss.
    """
    width = queries.shape[1]
    sizes = [size for size in config.matryoshka if size <= width] or [width]
    losses = [_loss(queries[:, :size], contexts[:, :size], labels, config) for size in sizes]
    return torch.stack(losses).sum()


def _loss(queries: Tensor, contexts: Tensor, labels: BatchLabels, config: LossConfig) -> Tensor:
    queries = functional.normalize(queries, dim=-1)
    contexts = functional.normalize(contexts, dim=-1)
    if config.name == "multiple-negatives":
        return masked_ranking_loss(queries, contexts, labels.positive, labels.masked, config.scale)
    if config.name == "margin-mse":
        parts = [queries[labels.triplets[:, 0]], *(contexts[labels.triplets[:, n]] for n in (1, 2))]
        return _theirs(config)(parts, labels.margins * config.margin)
    parts = [queries[labels.pairs[:, 0]], contexts[labels.pairs[:, 1]]]
    return _theirs(config)(parts, labels.grades)


def masked_ranking_loss(
    queries: Tensor, contexts: Tensor, positive: Tensor, masked: Tensor, scale: float
) -> Tensor:
    """Cross-entropy of each query's own context among the contexts that are not masked.

    Without masks it is sentence-transformers' MultipleNegativesRankingLoss. A masked context gets
    no gradient from the query that it is masked for.
    """
    scores = (queries @ contexts.T) * scale
    return functional.cross_entropy(scores.masked_fill(masked, -torch.inf), positive)


def _theirs(config: LossConfig) -> Any:
    """The function of a loss of sentence-transformers that takes embeddings and labels."""
    from sentence_transformers.sentence_transformer import losses

    def of(embeddings: Sequence[Tensor], labels: Tensor) -> Tensor:
        nothing: Any = torch.nn.Identity()
        loss = {
            "cosine-similarity": lambda: losses.CosineSimilarityLoss(nothing),
            "cosent": lambda: losses.CoSENTLoss(nothing, scale=config.scale),
            "margin-mse": lambda: losses.MarginMSELoss(nothing),
        }[config.name]()
        found: Tensor = loss.compute_loss_from_embeddings(list(embeddings), labels)
        return found

    return of
