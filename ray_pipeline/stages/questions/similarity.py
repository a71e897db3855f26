"""Semantic similarity of each paraphrase to its source."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ray_pipeline.core.config import Execution
from ray_pipeline.core.rows import fail, set_column
from ray_pipeline.models.embedder import Embedder
from ray_pipeline.stage import ModelStage, ModelStageConfig


class ParaphraseSimilarity(ModelStage):
    """Writes the cosine similarity of a version and its source; null for originals.

    Questions are compared with questions. If the answer was paraphrased too, answers are compared
    with answers, and the lower value counts. ``accept-paraphrases`` decides what happens to the
    version. If the model has no embedding for a text, its row fails: ``embedding:not_finite``.
    """

    name = "paraphrase-similarity"
    reads = {
        "question": pa.string(),
        "answer": pa.string(),
        "source_question": pa.string(),
        "source_answer": pa.string(),
    }
    writes = {"similarity": pa.float32()}
    uses_embedder = True

    class Config(ModelStageConfig):
        batch_size: Annotated[int, Execution] = Field(
            64, ge=1, description="texts embedded per batch"
        )
        bfloat16: bool = Field(
            False,
            description="compute in bfloat16: about three times as fast on CPUs with bfloat16 "
            "instructions; similarities change in the third decimal",
        )

    config: Config

    def load(self) -> None:
        """Create the embedder, which loads its model on first use."""
        device = "cuda" if self.config.num_gpus else "cpu"
        config = self.config
        self._embedder = Embedder(
            self.settings.embedder, config.batch_size, device, bfloat16=config.bfloat16
        )

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Embed the versions of one unit and their sources."""
        columns = [rows[name].to_pylist() for name in self.reads]
        versions: list[int] = []
        pairs: list[tuple[str, str]] = []
        for i, (question, answer, source_question, source_answer) in enumerate(
            zip(*columns, strict=True)
        ):
            if source_question is None:
                continue
            versions.append(i)
            pairs.append((question, source_question))
            if answer != source_answer:
                versions.append(i)
                pairs.append((answer, source_answer))
        similarity = np.full(rows.num_rows, np.inf, np.float32)
        # minimum, not fmin: NaN for one half is NaN for the version.
        with np.errstate(invalid="ignore"):
            np.minimum.at(similarity, versions, self._cosines(pairs))
        originals = np.isposinf(similarity)
        values: Any = pa.array(similarity, pa.float32(), mask=originals | np.isnan(similarity))
        rows = set_column(rows, "similarity", values)
        return fail(rows, pc.is_nan(pa.array(similarity)), "embedding:not_finite")

    def _cosines(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        if not pairs:
            return np.empty(0, np.float32)
        vectors = self._embedder.encode([text for pair in pairs for text in pair])
        cosines = np.einsum("nd,nd->n", vectors[0::2], vectors[1::2])
        # Rounded, because the last digits depend on what else is in the batch.
        return np.asarray(np.clip(np.round(cosines, 4), -1, 1), np.float32)
