"""Stages of prompt compression with the settings of a run, and rows for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar

import pyarrow as pa

from ray_pipeline.core.rows import with_envelope
from ray_pipeline.llm.prompt import Prompt
from ray_pipeline.llm.types import AnswerFormat
from ray_pipeline.models.packaged import resolve
from ray_pipeline.stage import MapStage, Settings, Stage
from ray_pipeline.stages.compression.measure import MeasurePrompts

_Kind = TypeVar("_Kind", bound=Stage)
TOKENIZER = "gpt2-tokenizer"


def bound(stage: _Kind, measure: dict[str, Any] | None = None, **config: Any) -> _Kind:
    """The stage with its configuration, in a run whose tokenizer is that of GPT-2."""
    names = ("compress", "variants")
    settings = Settings(
        seed=7,
        models={TOKENIZER: resolve(TOKENIZER)},
        prompts={name: Prompt(name, None, name, {}, AnswerFormat()) for name in names},
        llms={"compressor": {"model": "scripted"}},
        stages=(MeasurePrompts().bound(measure),),
    )
    return stage.bound(config, settings)


def prompts(*texts: str, **columns: Sequence[Any]) -> pa.Table:
    """Rows of prompts, with further columns."""
    data = {"prompt": pa.array(texts, pa.string())} | {n: pa.array(v) for n, v in columns.items()}
    return with_envelope(pa.table(data), [f"row{i}" for i in range(len(texts))])


def applied(stage: MapStage, rows: pa.Table) -> tuple[pa.Table, Counter[str]]:
    """What a stage makes of rows, and what it counted."""
    counts: Counter[str] = Counter()
    return stage.apply(rows, counts), counts
