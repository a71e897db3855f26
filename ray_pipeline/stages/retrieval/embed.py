"""Embeddings of contexts and queries by each of the models that are compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, StringConstraints

from ray_pipeline.core.config import Execution, Section
from ray_pipeline.core.rows import fail, set_column
from ray_pipeline.models.embedder import Embedder, Vectors, is_usable
from ray_pipeline.rundir.layout import SOURCE_NAME
from ray_pipeline.stage import ModelStage, ModelStageConfig

#: In full precision: rankings are compared by their last digits where models are close.
VECTOR = pa.list_(pa.float32())
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class EmbeddingModel(Section):
    """An embedding model, with what it expects of its texts."""

    model: str = Field(
        "all-minilm-l6-v2",
        description="sentence-embedding model: a packaged name, a folder or a hub id",
    )
    query_prefix: str = Field("", description="text put before each query, such as `query: `")
    context_prefix: str = Field("", description="text put before each context")
    max_tokens: int | None = Field(
        None,
        ge=8,
        description="maximum number of tokens of a text; the rest is cut off; null: the model's "
        "own limit",
    )


class EmbedForRetrieval(ModelStage):
    """Embeds queries, and contexts with and without their tags, by all models of its configuration.

    Writes ``text_NAME`` (a query, or a context's text alone) and ``tagged_NAME`` (a context with
    its tags) for each model NAME, vectors of length 1. Counts the texts that were cut.
    """

    name = "embed"
    in_plan = False
    reads = {name: pa.string() for name in ("prompt", "context", "query")}

    class Config(ModelStageConfig):
        models: dict[ModelName, EmbeddingModel] = Field(
            {"minilm": EmbeddingModel()},
            min_length=1,
            description="the embedding models that are compared, by a name for each",
        )
        bfloat16: bool = Field(
            False, description="compute in bfloat16: faster on CPUs with bfloat16 instructions"
        )
        batch_size: Annotated[int, Execution] = Field(
            64, ge=1, description="texts per forward pass"
        )

    config: Config

    @property
    def models(self) -> Mapping[str, str]:
        """The models, to be looked up."""
        return {f"models.{name}.model": one.model for name, one in self.config.models.items()}

    @property
    def writes(self) -> Mapping[str, pa.DataType]:
        """Two columns of vectors for each model."""
        names = [f"{view}_{name}" for name in self.config.models for view in ("text", "tagged")]
        return dict.fromkeys(names, VECTOR)

    @property
    def internal(self) -> Collection[str]:
        """The vectors are not exported."""
        return tuple(self.writes)

    def reads_of(self, source: str) -> Mapping[str, pa.DataType]:
        """The query of queries, prompt and context of the corpus, nothing of other sources."""
        names = {"queries": ("query",), "corpus": ("prompt", "context")}.get(source, ())
        return dict.fromkeys(names, pa.string())

    def load(self) -> None:
        """Load all models."""
        self._embedders = {
            name: embedder_of(
                self.model(f"models.{name}.model"),
                one,
                self.config.batch_size,
                "cuda" if self.config.num_gpus else "cpu",
                self.config.bfloat16,
            )
            for name, one in self.config.models.items()
        }

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Embed every row."""
        source = rows[SOURCE_NAME]
        is_query, is_context = pc.equal(source, "queries"), pc.equal(source, "corpus")
        bad = np.zeros(rows.num_rows, bool)
        for name, embedder in self._embedders.items():
            model = self.config.models[name]
            plans = {
                "text": [("query", is_query, model.query_prefix)]
                + [("prompt", is_context, model.context_prefix)],
                "tagged": [("context", is_context, model.context_prefix)],
            }
            for view, parts in plans.items():
                texts: list[str | None] = [None] * rows.num_rows
                for column, mask, prefix in parts:
                    values = pc.if_else(mask, rows[column], None).to_pylist()
                    for number, value in enumerate(values):
                        if value is not None:
                            texts[number] = prefix + value
                vectors, unusable = _embedded(embedder, texts)
                bad |= unusable
                rows = set_column(rows, f"{view}_{name}", vectors)
                known = [text for text in texts if text is not None]
                if cut := embedder.cut_texts(known):
                    counts[f"texts cut by {name}"] += cut
        return fail(rows, pa.array(bad), "embedding:not_finite")


def embedder_of(
    folder: str, model: EmbeddingModel, batch_size: int, device: str, bfloat16: bool = False
) -> Embedder:
    """The embedder of a configured model."""
    return Embedder(folder, batch_size, device, bfloat16, model.max_tokens)


def _embedded(embedder: Embedder, texts: list[str | None]) -> tuple[pa.Array, Any]:
    """Vectors of the texts as a list column, null where there is no text; and which failed."""
    known = np.array([text is not None for text in texts], bool)
    vectors = embedder.encode([text for text in texts if text is not None])
    usable = is_usable(vectors)
    filled = known.copy()
    filled[known] = usable
    return vector_column(vectors[usable], filled), known & ~filled


def vector_column(vectors: Vectors, filled: Any) -> pa.Array:
    """Vectors as a list column of floats; null where ``filled`` is false.

    Args:
        vectors: float32 [filled rows, dimensions].
        filled: which rows have a vector; bool [rows].
    """
    lengths = np.where(filled, vectors.shape[1] if len(vectors) else 0, 0)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    mask = pa.array(~filled) if len(filled) else None
    return pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1)), type=VECTOR, mask=mask)
