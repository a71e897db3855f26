"""Measurements of one model: answers, perplexity, size and speed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import torch
import torch.nn.functional as F

from ray_pipeline.evaluate.generation import TextGenerator, timed
from ray_pipeline.models.decoding import Decoding
from ray_pipeline.train.batches import Batch, BatchConfig, BatchPlan, TokenRows
from ray_pipeline.train.forward import AnswerModel
from ray_pipeline.train.losses import Answers, positions_at_once
from ray_pipeline.train.student import parameter_count

_WEIGHTS = (".safetensors", ".bin")


@dataclass(frozen=True)
class ModelFigures:
    """Measurements of a model.

    Attributes:
        answers: its answers, in the order of the questions.
        nats: cross-entropy of each token row's answer, summed over its tokens.
        figures: plain data for ``metrics.json``; see `measure`.
    """

    answers: list[str]
    nats: list[float]
    figures: dict[str, Any]

    def to_json(self) -> bytes:
        """The content of a file, for `from_json`."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, raw: bytes) -> ModelFigures:
        """Read the content that `to_json` returned."""
        content = orjson.loads(raw)
        # JSON has no infinity, which is the loss of a model that diverged.
        content["nats"] = [math.inf if nats is None else nats for nats in content["nats"]]
        return cls(**content)


def measure(
    generator: TextGenerator,
    questions: Sequence[str],
    tokens: TokenRows,
    decoding: Decoding,
    batch_rows: int,
    batch_tokens: int,
) -> ModelFigures:
    """Measure a model.

    Args:
        generator: the model.
        questions: to answer; at least one.
        tokens: rows whose answers' perplexity is measured.
        decoding: how tokens are chosen.
        batch_rows: rows in a batch, at most.
        batch_tokens: tokens of a forward pass over ``tokens``, padding included.

    Returns:
        Its answers, the cross-entropy of each token row, and these figures: ``parameters``; latency
        and tokens per second (see `generation.Speed`); ``tokens_per_answer``, a mean; ``ended``,
        the fraction of answers that the model ended before the limit.
    """
    answers, speed = timed(generator, questions, decoding, batch_rows)
    model = generator.model
    nats = nats_of_rows(model, tokens, batch_rows, batch_tokens)
    figures = {
        "parameters": parameter_count(model),
        **speed.to_json(),
        "tokens_per_answer": sum(answer.tokens for answer in answers) / len(answers),
        "ended": sum(answer.ended for answer in answers) / len(answers),
    }
    return ModelFigures([answer.text for answer in answers], nats.tolist(), figures)


def nats_of_rows(
    model: Any, tokens: TokenRows, batch_rows: int, batch_tokens: int
) -> npt.NDArray[np.float64]:
    """Cross-entropy of each row's answer, summed over its tokens; arguments as of `measure`."""
    longest = int(tokens.lengths.max())
    size = BatchConfig(batch_tokens=max(longest, batch_tokens), batch_rows=batch_rows)
    losses = answer_losses(AnswerModel(model), tokens, BatchPlan(tokens, size).in_order())
    return np.where(tokens.answer_tokens > 0, losses * tokens.answer_tokens, 0.0)


def size_on_disk(folder: str | Path) -> dict[str, Any]:
    """``bytes`` of a saved model's weight files, and the ``dtype`` in its configuration."""
    files = [path for path in Path(folder).iterdir() if path.suffix in _WEIGHTS]
    config = json.loads(Path(folder, "config.json").read_text())
    dtype = config.get("dtype", config.get("torch_dtype"))
    return {"bytes": sum(path.stat().st_size for path in files), "dtype": dtype}


# The loss of each row's answer.


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
    for number, losses in answer_token_losses(model, rows, batches):
        sums[number] = losses.sum()
    with np.errstate(invalid="ignore"):
        return sums / rows.answer_tokens


@torch.no_grad()
def answer_token_losses(
    model: AnswerModel, rows: TokenRows, batches: Iterable[Batch]
) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
    """Yield each row's number and the cross-entropy of its answer tokens, in nats.

    Args:
        model: in evaluation mode.
        rows: the rows.
        batches: all of them, in micro-batches of any order, which is that of what is yielded.
    """
    device = model.model.device
    for batch in batches:
        losses = _losses(model(batch.to(device)))
        ends = np.cumsum(rows.answer_tokens[batch.rows])
        for number, of_row in zip(batch.rows, np.split(losses, ends[:-1]), strict=True):
            yield int(number), of_row


def _losses(answers: Answers) -> npt.NDArray[np.float64]:
    """The loss of every answer token of a batch. Logits are computed for a chunk at a time."""
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


# The perplexity of completions under another model: a measure of fluency without a judge.


class ReferenceModel:
    """A causal language model that scores completions of other models.

    Args:
        folder: local folder or hub id.
        device: ``cpu`` or ``cuda``.
        dtype: of its weights.

    Raises:
        UserError: there is no such model, or it has no tokenizer.
    """

    def __init__(self, folder: str, device: str, dtype: torch.dtype) -> None:
        from ray_pipeline.models.control_tokens import ControlTokens
        from ray_pipeline.models.tokenizer import load_tokenizer
        from ray_pipeline.train.student import load

        self.tokenizer = load_tokenizer(folder)
        self._control = ControlTokens(self.tokenizer)
        self.model: Any = load(folder).to(device, dtype).eval()
        self.positions = getattr(self.model.config, "max_position_embeddings", None)

    @torch.inference_mode()
    def nats_per_token(self, instruction: str, completion: str) -> float | None:
        """Mean cross-entropy of a completion's tokens after its instruction; None if it is empty.

        Instruction and completion are a line each, without a chat template: the figure measures
        fluency. Tokens beyond the model's last position are left out.
        """
        if not completion.strip():
            return None
        before = self._control.data(f"{instruction.strip()}\n")
        rest = self._control.data(completion, add_special_tokens=False)
        ids = torch.tensor([[*before, *rest][: self.positions]], device=self.model.device)
        if ids.shape[1] <= len(before) or not before:
            return None
        scores = self.model(input_ids=ids).logits[0, len(before) - 1 : -1].float()
        loss = torch.nn.functional.cross_entropy(scores, ids[0, len(before) :])
        return float(loss) if torch.isfinite(loss) else None
