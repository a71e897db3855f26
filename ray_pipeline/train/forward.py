"""A model's outputs at answer positions only.

A row is what a model reads, followed by what it is to predict, the answer. Three kinds of models
are run so, with one loss, one plan of steps and one way to sum gradients:

- a causal language model predicts each answer token from all tokens before it;
- an encoder-decoder (T5, BART) reads the prompt with its encoder, and its decoder predicts the
  answer. Its own loss is not used: a mean over a micro-batch, which transformers 5.19 sums over
  micro-batches as if it were divided by the tokens of all of them;
- a token classifier reads the prompt, and the answer is a label for each token between the first
  and the last one, such as 0 (drop) or 1 (keep).

The output projection is the largest matrix product of a small model and its logits the largest
tensor: both are needed at answer positions alone. So the body of the model runs on the whole batch,
and `losses` projects the answer positions, chunk by chunk. Some models scale or cap their logits:
where a first try shows that projecting the body's states does not give the model's own logits, the
model's own logits are used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ray_pipeline.core.errors import UserError
from ray_pipeline.train.batches import Batch
from ray_pipeline.train.losses import Answers, LossParts, OnlineSignal
from ray_pipeline.train.student import ModelKind


class AnswerModel:
    """Runs a model of transformers (or PEFT) on batches and returns its `Answers`.

    Args:
        model: a causal language model, an encoder-decoder or a token classifier; its parameters,
            mode and device are left as they are.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        plain = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._kind = kind_of(plain)
        is_causal = self._kind == "causal"
        self._parts = _split(plain) if is_causal and _splits(model, plain) else None

    def __call__(self, batch: Batch) -> Answers:
        """The model at the answer positions of a batch on the model's device.

        Raises:
            UserError: the batch is packed, which only causal models take.
        """
        if self._kind != "causal":
            return _OF_KIND[self._kind](self.model, _Sides.of(batch))
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


def kind_of(model: Any) -> ModelKind:
    """Which of the three kinds a model of transformers is."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES

    if getattr(model.config, "is_encoder_decoder", False):
        return "seq2seq"
    labels = MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES.values()
    return "token_labels" if type(model).__name__ in labels else "causal"


@dataclass(frozen=True)
class _Sides:
    """The prompts and the answers of a batch apart, each from the left.

    Attributes:
        prompts: int64 [rows, prompt].
        read: which of these are tokens, not padding; int64 of the same shape.
        answers: int64 [rows, answer].
        targets: which of these are; bool of the same shape.
    """

    prompts: torch.Tensor
    read: torch.Tensor
    answers: torch.Tensor
    targets: torch.Tensor

    @classmethod
    def of(cls, batch: Batch) -> _Sides:
        """The sides of a batch that is padded."""
        if batch.attention_mask is None:
            raise UserError("layout: packed is for causal language models: set batches.layout")
        is_prompt = batch.attention_mask.bool() & ~batch.answer_mask
        prompts, read = _gathered(batch.input_ids, is_prompt)
        answers, targets = _gathered(batch.input_ids, batch.answer_mask)
        return cls(prompts, read.long(), answers, targets)


def _gathered(ids: torch.Tensor, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The chosen tokens of each row, in order and from the left, and where these are."""
    counts = chosen.sum(1)
    width = max(1, int(counts.max()))
    order = torch.argsort((~chosen).int(), dim=1, stable=True)[:, :width]
    is_token = torch.arange(width, device=ids.device)[None] < counts[:, None]
    return ids.gather(1, order), is_token


def _seq2seq(model: Any, sides: _Sides) -> Answers:
    """The decoder's logits where each predicts the next answer token, after the start token."""
    config = model.config
    start = config.decoder_start_token_id
    if start is None:
        start = model.generation_config.decoder_start_token_id
    if start is None:
        raise UserError("the model's configuration has no decoder_start_token_id")
    pad = 0 if config.pad_token_id is None else config.pad_token_id
    first = torch.full_like(sides.answers[:, :1], start)
    before = sides.answers[:, :-1].masked_fill(~sides.targets[:, :-1], pad)
    logits = model(
        input_ids=sides.prompts.masked_fill(sides.read == 0, pad),
        attention_mask=sides.read,
        decoder_input_ids=torch.cat([first, before], dim=1),
        use_cache=False,
    ).logits
    return Answers(logits[sides.targets], sides.answers[sides.targets])


def _token_labels(model: Any, sides: _Sides) -> Answers:
    """The logits of the labels of all tokens but the first and the last one of each row."""
    logits = model(input_ids=sides.prompts, attention_mask=sides.read).logits[:, 1:]
    width = sides.targets.shape[1]
    return Answers(logits[:, :width][sides.targets], sides.answers[sides.targets])


_OF_KIND: dict[ModelKind, Callable[[Any, _Sides], Answers]] = {
    "seq2seq": _seq2seq,
    "token_labels": _token_labels,
}


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
