"""Cross-entropy of a model on rows that it is not trained on: validation and test rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from ray_pipeline.models.device import Precision, autocast
from ray_pipeline.train.batches import Batch
from ray_pipeline.train.forward import AnswerModel
from ray_pipeline.train.losses import Objective, answer_loss
from ray_pipeline.train.replica import Replica, Sum


@torch.no_grad()
def answer_nats(
    answers: AnswerModel | Replica,
    batches: Iterable[Batch],
    device: torch.device | str,
    precision: Precision = "float32",
    total: Sum | None = None,
) -> tuple[float, int]:
    """Cross-entropy of a model on answers, in evaluation mode.

    Args:
        answers: the model.
        batches: the batches of this rank; see `BatchPlan.in_order`.
        device: of the model.
        precision: of the forward pass.
        total: sums a tensor over ranks, where there are several.

    Returns:
        (nats, answer tokens), both summed; perplexity is ``exp(nats / tokens)``.
    """
    device = torch.device(device)
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    with evaluating(answers.model):
        for batch in batches:
            batch = batch.to(device)
            with autocast(precision, device):
                loss = partial(answer_loss, objective=Objective(), normaliser=1)
                parts = answers.loss(batch, loss)
            sums += torch.stack([parts.cross_entropy.double(), sums.new_tensor(parts.tokens)])
    nats, tokens = (sums if total is None else total(sums)).tolist()
    return nats, int(tokens)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put a model into evaluation mode for a block."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
