"""A job of which a stage raises errors that quote environment variables, before it asks."""

from __future__ import annotations

import os
from collections import Counter

import pyarrow as pa
from toy import Ask

from ray_pipeline.core.rows import set_column
from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stage import MapStage, StageConfig


class LeakConfig(StageConfig):
    quotes: list[str] = []


class Leak(MapStage):
    """Raises on rows that say ``leak``, with the values of variables; one first for each row."""

    name = "leak"
    Config = LeakConfig
    reads = {"text": pa.string()}
    writes = {"length": pa.int64()}

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        texts = rows["text"].to_pylist()
        for number, text in enumerate(texts):
            if "leak" in text and len(texts) == 1:
                first = len(text) % len(self.config.quotes)
                names = self.config.quotes[first:] + self.config.quotes[:first]
                raise ValueError("; ".join(f"no login with {os.environ[name]}" for name in names))
            if "leak" in text:
                raise ValueError(f"row {number} leaks")
        return set_column(rows, "length", pa.array([len(text) for text in texts], pa.int64()))


PIPELINE = Pipeline("toy-leaky", [Leak(), Ask()])
