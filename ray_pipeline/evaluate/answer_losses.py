"""How surprised a model is by each row's answer: its loss, row by row."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from ray_pipeline.train.batches import Batch, TokenRows
from ray_pipeline.train.forward import AnswerModel
from ray_pipeline.train.losses import Answers, positions_at_once


@torch.no_grad()
def answer_losses(
    model: AnswerModel, rows: TokenRows, batches: Iterable[Batch]
) -> npt.NDArray[np.float64]:
    """Mean cross-entropy of each row's answer tokens, in nats; NaN for a row without any.

    Args:
        model: in evaluation mode.
        rows: the rows.
        batches: all of them, in micro-batches of any order (`BatchPlan.in_order`).
    """
    sums = np.zeros(len(rows))
    device = model.model.device
    for batch in batches:
        answers = model(batch.to(device))
        counts = rows.answer_tokens[batch.rows]
        owner = np.repeat(np.arange(len(batch.rows)), counts)
        sums[batch.rows] = np.bincount(owner, _losses(answers), minlength=len(batch.rows))
    with np.errstate(invalid="ignore"):
        return sums / rows.answer_tokens


def _losses(answers: Answers) -> npt.NDArray[np.float64]:
    """The loss of every answer token of a batch. Logits exist for a chunk of them at a time."""
    chunk = positions_at_once(answers)
    made = [np.empty(0)]
    for states, targets in zip(
        answers.states.split(chunk), answers.targets.split(chunk), strict=True
    ):
        logits = states
        if answers.weight is not None:
            logits = F.linear(states, answers.weight, answers.bias)
        exact = logits if logits.dtype == torch.float64 else logits.float()
        losses = F.cross_entropy(exact, targets, reduction="none")
        made.append(losses.double().cpu().numpy())
    return np.concatenate(made)
