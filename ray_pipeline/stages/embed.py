"""Sentence embeddings as a column: computed once, for every stage that looks at meaning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ray_pipeline.core.config import Execution
from ray_pipeline.core.rows import fail, set_column
from ray_pipeline.models.embedder import Embedder, Vectors, is_usable
from ray_pipeline.stage import ModelStage, ModelStageConfig, Stage

#: Half precision is plenty for a direction in a few hundred dimensions, and half the storage.
EMBEDDING = pa.list_(pa.float16())


class Embed(ModelStage):
    """Writes one embedding of a row's texts together, normalised to length 1.

    A row whose embedding is not a number (NaN) fails; ``ray-pipeline retry`` tries it again.

    Args:
        columns: columns whose texts are embedded, joined by a line break.
        only_for: the only stage that uses the embeddings. If it is off or not in the job, this
            one is off too.
        options: name and defaults of the configuration.
    """

    name = "embed"
    writes = {"embedding": EMBEDDING}
    uses_embedder = True

    class Config(ModelStageConfig):
        max_tokens: int | None = Field(
            256,
            ge=8,
            description="maximum number of tokens of a text that are embedded; the rest is cut "
            "off; null: the model's own limit",
        )
        bfloat16: bool = Field(
            False, description="compute in bfloat16: faster on CPUs with bfloat16 instructions"
        )
        batch_size: Annotated[int, Execution] = Field(
            64, ge=1, description="texts per forward pass"
        )

    config: Config

    def __init__(self, *columns: str, only_for: type[Stage] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.columns, self._only_for = columns, only_for
        if only_for is not None:
            self.in_plan = False

    @property
    def reads(self) -> Mapping[str, pa.DataType]:
        """The columns whose texts are embedded."""
        return dict.fromkeys(self.columns, pa.string())

    @property
    def internal(self) -> Collection[str]:
        """The embeddings, if only one stage uses them."""
        return () if self._only_for is None else ("embedding",)

    @property
    def is_off(self) -> bool:
        """Whether the only stage that would use the embeddings is off or missing."""
        if self._only_for is None:
            return False
        user = self.find_stage(self._only_for)
        return user is None or user.is_off

    def load(self) -> None:
        """Load the run's embedding model."""
        self._embedder = Embedder(
            self.settings.embedder,
            self.config.batch_size,
            device="cuda" if self.config.num_gpus else "cpu",
            bfloat16=self.config.bfloat16,
            max_tokens=self.config.max_tokens,
        )

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        """Embed every row."""
        columns = [pc.fill_null(rows[column], "") for column in self.columns]
        texts = pc.binary_join_element_wise(*columns, "\n").to_pylist()
        vectors = self._embedder.encode(texts)
        usable = is_usable(vectors)
        rows = set_column(rows, "embedding", embedding_column(vectors, usable))
        return fail(rows, pa.array(~usable), "embedding:not_finite")


def embedding_column(vectors: Vectors, usable: npt.NDArray[np.bool_]) -> pa.Array:
    """Vectors as a list column of half floats; null for vectors that are not finite."""
    number, dimensions = vectors.shape
    lengths = np.where(usable, dimensions, 0)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    values = pa.array(vectors[usable].astype(np.float16).reshape(-1))
    mask = pa.array(~usable) if number else None
    return pa.ListArray.from_arrays(offsets, values, type=EMBEDDING, mask=mask)


def vectors_of(column: pa.Array | pa.ChunkedArray) -> Vectors:
    """The vectors of an embedding column without nulls, as float32 ``[rows, dimensions]``.

    Rows that hold something else than numbers, or another number of them, come as NaN.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not len(array):
        return np.empty((0, 0), dtype=np.float32)
    lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
    dimensions = int(np.bincount(lengths.astype(np.int64)).argmax())
    right = lengths == dimensions
    vectors = np.full((len(lengths), dimensions), np.nan, dtype=np.float32)
    values = array.filter(pa.array(right)).flatten().to_numpy(zero_copy_only=False)
    vectors[right] = values.astype(np.float32).reshape(-1, dimensions)
    return vectors
