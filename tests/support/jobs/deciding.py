"""Every decide stage of `qa_distillation` in a row, on embeddings that cost nothing."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import xxhash

from ray_pipeline.core.rows import set_column
from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stage import MapStage
from ray_pipeline.stages.duplicates.exact import ExactDuplicates, SameText
from ray_pipeline.stages.duplicates.near import NearDuplicates
from ray_pipeline.stages.embed import EMBEDDING, embedding_column
from ray_pipeline.stages.outliers.clusters import OutlierClusters


class BagOfWords(MapStage):
    """The sum of a random direction for each word."""

    name = "bag-of-words"
    reads = {"question": pa.string(), "answer": pa.string()}
    writes = {"embedding": EMBEDDING}

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        vectors = np.array([_vector(text) for text in rows["question"].to_pylist()], np.float32)
        vectors = vectors.reshape(-1, 24)
        usable = np.isfinite(vectors).all(axis=1)
        return set_column(rows, "embedding", embedding_column(vectors, usable))


def _vector(text: str | None) -> np.ndarray:
    words = (text or "").lower().split()
    if "nan" in words:
        return np.full(24, np.nan)
    directions = [
        np.random.default_rng(xxhash.xxh3_64_intdigest(word.encode())).normal(size=24)
        for word in words or ["nothing"]
    ]
    total = np.sum(directions, axis=0)
    return total / np.linalg.norm(total)


PIPELINE = Pipeline(
    "deciding",
    [
        BagOfWords(),
        OutlierClusters(),
        ExactDuplicates("question", "answer"),
        SameText("question"),
        SameText("answer", ignore=("true", "false")),
        NearDuplicates("question", "answer"),
    ],
)
