"""Everything that is measured on one model: answers, perplexity, size and speed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ray_pipeline.evaluate.generation import TextGenerator, timed
from ray_pipeline.evaluate.model_text import Decoding
from ray_pipeline.evaluate.text_metrics import perplexity
from ray_pipeline.train.batches import BatchConfig, BatchPlan, TokenRows
from ray_pipeline.train.forward import AnswerModel
from ray_pipeline.train.held_out import answer_nats
from ray_pipeline.train.student import parameter_count

_WEIGHTS = (".safetensors", ".bin")


@dataclass(frozen=True)
class ModelFigures:
    """What was measured on a model.

    Attributes:
        answers: its answers, in the order of the questions.
        figures: plain data for ``metrics.json``; see `measure`.
    """

    answers: list[str]
    figures: dict[str, Any]

    def to_json(self) -> bytes:
        """As a file that `of_json` reads."""
        return orjson.dumps({"answers": self.answers, "figures": self.figures})

    @classmethod
    def of_json(cls, raw: bytes) -> ModelFigures:
        """From a file that `to_json` made."""
        return cls(**orjson.loads(raw))


def measure(
    generator: TextGenerator,
    questions: Sequence[str],
    tokens: TokenRows,
    decoding: Decoding,
    batch_rows: int,
    batch_tokens: int,
) -> ModelFigures:
    """Ask a model, and measure it.

    Args:
        generator: the model.
        questions: to answer; at least one.
        tokens: rows whose answers' perplexity is measured.
        decoding: how it answers.
        batch_rows: rows in a batch, at most.
        batch_tokens: tokens of a forward pass over ``tokens``, padding included.

    Returns:
        Its answers, and: ``perplexity`` on the rows' ``answer_tokens`` (so many); ``parameters``;
        latency and tokens a second (see `generation.Speed`); ``tokens_per_answer``, a mean; and
        ``ended``, the share of answers that the model ended itself.
    """
    answers, speed = timed(generator, questions, decoding, batch_rows)
    model = generator.model
    longest = int(tokens.lengths.max())
    size = BatchConfig(batch_tokens=max(longest, batch_tokens), batch_rows=batch_rows)
    batches = BatchPlan(tokens, size).in_order()
    nats, counted = answer_nats(AnswerModel(model), batches, model.device)
    figures = {
        "perplexity": perplexity(nats, counted),
        "answer_tokens": counted,
        "parameters": parameter_count(model),
        **speed.to_json(),
        "tokens_per_answer": sum(answer.tokens for answer in answers) / len(answers),
        "ended": sum(answer.ended for answer in answers) / len(answers),
    }
    return ModelFigures([answer.text for answer in answers], figures)


def size_on_disk(folder: str | Path) -> dict[str, Any]:
    """``bytes`` of a saved model's weights and their ``dtype``, as its configuration says."""
    files = [path for path in Path(folder).iterdir() if path.suffix in _WEIGHTS]
    config = json.loads(Path(folder, "config.json").read_text())
    dtype = config.get("dtype", config.get("torch_dtype"))
    return {"bytes": sum(path.stat().st_size for path in files), "dtype": dtype}
