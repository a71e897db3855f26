"""A causal language model's outputs at answer positions only.

The output projection is the largest matrix product of a small model and its logits the largest
tensor: both are needed at answer positions alone. So the body of the model runs on the whole batch,
and `losses` projects the answer positions, chunk by chunk. Some models scale or cap their logits:
where a first try shows that projecting the body's states does not give the model's own logits, the
model's own logits are used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ray_pipeline.train.batches import Batch
from ray_pipeline.train.losses import Answers, LossParts, OnlineSignal


class AnswerModel:
    """Runs a model of transformers (or PEFT) on batches and returns its `Answers`.

    Args:
        model: a causal language model; its parameters, mode and device are left as they are.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        plain = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._parts = _split(plain) if _splits(model, plain) else None

    def __call__(self, batch: Batch) -> Answers:
        """The model at the answer positions of a batch on the model's device."""
        if self._parts is None:
            logits = self.model(**batch.inputs(), use_cache=False).logits
            return Answers(logits[:, :-1][batch.predicted], batch.targets)
        body, head = self._parts
        states = body(**batch.inputs(), use_cache=False)[0]
        return Answers(states[:, :-1][batch.predicted], batch.targets, head.weight, head.bias)

    def loss(self, batch: Batch, compute: Callable[[Answers], LossParts]) -> LossParts:
        """Apply ``compute`` to the answers of a batch."""
        return compute(self(batch))


class OnlineTeacher:
    """A teacher that is run on each micro-batch, in evaluation mode and without gradients.

    Args:
        model: the teacher, on the device of the student.
        vocabulary: see `losses.shared_vocabulary`.
    """

    def __init__(self, model: Any, vocabulary: int) -> None:
        self.model = AnswerModel(model.eval())
        self.vocabulary = vocabulary

    @torch.no_grad()
    def __call__(self, batch: Batch) -> OnlineSignal:
        """The teacher's outputs on a batch."""
        return OnlineSignal(self.model(batch).detached(), self.vocabulary)


def _split(model: Any) -> tuple[Any, Any] | None:
    """The body and the output projection, where the model has the usual shape."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    body = getattr(model, "base_model", None)
    if type(head) is not torch.nn.Linear or body is None or body is model:
        return None
    return body, head


@torch.no_grad()
def _splits(model: Any, plain: Any) -> bool:
    """Whether projecting the body's states gives exactly the model's own logits."""
    parts = _split(plain)
    if parts is None:
        return False
    body, head = parts
    training = model.training
    model.eval()
    ids = torch.arange(4, device=head.weight.device)[None] % head.weight.shape[0]
    try:
        return torch.equal(head(body(input_ids=ids, use_cache=False)[0]), model(ids).logits)
    finally:
        model.train(training)
