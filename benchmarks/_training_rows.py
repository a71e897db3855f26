"""What the training benchmarks share: real rows as tokens, and a timed step."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from ray_pipeline.models import packaged as models
from ray_pipeline.models.text import TextConfig, Tokeniser
from ray_pipeline.train.batches import TokenRows

MODEL = "smollm2-135m-instruct"


def tokenizer() -> Any:
    """The packaged model's."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(models.resolve(MODEL))


def real_rows(path: Path, number: int, max_tokens: int) -> TokenRows:
    """The first rows of a file of instructions and responses, as training tokens."""
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(number), strict=False)]
    table = pa.table(
        {
            "row_id": [str(i) for i in range(len(rows))],
            "question": [row["instruction"] for row in rows],
            "answer": [row["response"] for row in rows],
        }
    )
    return TokenRows(Tokeniser(tokenizer(), TextConfig(max_tokens=max_tokens))(table))


def seconds(do: Callable[[], object]) -> float:
    """Wall time of a call."""
    began = time.perf_counter()
    do()
    return time.perf_counter() - began
