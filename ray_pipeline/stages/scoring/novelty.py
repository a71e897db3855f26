"""Novelty: the distance of each row to the most similar rows, by meaning.

DEITA (Liu et al. 2023, "What Makes Good Data for Alignment?", arXiv 2312.15685) keeps a row where
its embedding lies far enough from those chosen before it. Its choice depends on the order of rows,
and its cost grows with their square. Here each row is compared with the same random sample of the
rows: what is measured is how thinly the neighbourhood is settled, as in outlier detection by
k nearest neighbours (Ramaswamy, Rastogi and Shim 2000). The cost grows with the rows, and a row's
score with nothing but its text and the sample.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from ray_pipeline.core.tables import REF, Tables
from ray_pipeline.stage import DecideStage, StageConfig
from ray_pipeline.stages.embed import EMBEDDING, vectors_of
from ray_pipeline.stages.text.keys import run_starts, text_hash

#: Dot products of rows with the sample that are in memory at the same time: 64 MiB.
_BLOCK_ELEMENTS = 2**23
#: Decimals of the scores; rounding hides differences from the order of summation.
_DECIMALS = 6

Floats = npt.NDArray[np.float64]


class ScoreNovelty(DecideStage):
    """Writes ``novelty``, the mean cosine distance to the nearest rows of a sample; drops
    nothing.

    It is 0 for a row whose neighbours say the same, and up to 1 for a row that has nothing in
    common with any. The sample is chosen by a hash of the text and the seed, each text once. A row
    is not compared with its own text, so exact copies do not count; near duplicates do.

    It is null for a row without an embedding, and if the sample has no other text.
    """

    name = "score-novelty"
    reads = {
        "instruction": pa.string(),
        "response": pa.string(),
        "embedding": EMBEDDING,
    }
    writes = {"novelty": pa.float64()}
    #: Takes kilobytes per row, which later stages would otherwise copy.
    removes = ("embedding",)
    uses_seed = True

    class Config(StageConfig):
        enabled: bool = Field(
            False, description="turn the stage on; false: no embeddings and no scores are computed"
        )
        reference_rows: int = Field(
            4_096,
            ge=2,
            description="number of distinct texts in the sample with which every row is compared",
        )
        neighbours: int = Field(
            10,
            ge=1,
            description="number of nearest rows in the sample; the score is the mean distance to "
            "them",
        )

    config: Config

    @property
    def is_off(self) -> bool:
        """Whether the configuration does not enable it."""
        return not self.config.enabled

    def keys(self, rows: pa.Table) -> pa.Table:
        """The usable embeddings, and hashes of their texts."""
        texts = zip(rows["instruction"].to_pylist(), rows["response"].to_pylist(), strict=True)
        seed = str(self.settings.seed)
        drawn = [text_hash([seed, one or "", other or ""]) for one, other in texts]
        # One of several equal texts represents all; it should always be the same one.
        tie = [text_hash([row_id]) for row_id in rows["row_id"].to_pylist()]
        table = pa.table(
            {
                REF: rows[REF],
                "drawn": pa.array(drawn, pa.uint64()),
                "tie": pa.array(tie, pa.uint64()),
                "embedding": rows["embedding"],
            }
        )
        table = table.filter(table["embedding"].is_valid())
        return table.filter(pa.array(np.isfinite(vectors_of(table["embedding"])).all(axis=1)))

    def decide(self, keys: Tables) -> Tables:
        """Compute the scores of all rows that have an embedding."""
        keys = keys.saved()
        sample = keys.map(self._first).group(["all"], self._first, order=["drawn", "tie"])
        return keys.map_with(sample.saved(), self._score)

    def _first(self, table: pa.Table) -> pa.Table:
        """The first different texts in the order of their hashes: the same ones in any layout."""
        table = table.sort_by([("drawn", "ascending"), ("tie", "ascending")])
        table = table.filter(pa.array(run_starts(table["drawn"])))
        table = table.slice(0, self.config.reference_rows)
        if "all" in table.column_names:
            return table
        return table.append_column("all", pa.array(np.zeros(table.num_rows, np.int64)))

    def _score(self, table: pa.Table, sample: pa.Table) -> pa.Table:
        drawn, sampled = table["drawn"].to_numpy(), sample["drawn"].to_numpy()
        vectors, reference = _units(table["embedding"]), _units(sample["embedding"])
        scores = np.full(len(drawn), np.nan)
        step = max(1, _BLOCK_ELEMENTS // max(1, len(sampled)))
        for start in range(0, len(drawn), step):
            block = slice(start, start + step)
            own = drawn[block, None] == sampled[None, :]
            scores[block] = novelty(vectors[block], reference, own, self.config.neighbours)
        nothing = pa.nulls(len(drawn), pa.string())
        return pa.table(
            {
                REF: table[REF],
                "status": nothing,
                "reason": nothing,
                "novelty": pa.array(np.round(scores, _DECIMALS), mask=np.isnan(scores)),
            }
        )


def novelty(
    vectors: Floats, reference: Floats, own: npt.NDArray[np.bool_], neighbours: int
) -> Floats:
    """Mean cosine distance, at most 1, of each vector to its nearest ones in a reference.

    Args:
        vectors: of length 1.
        reference: vectors of length 1 to compare with.
        own: mask of references with the vector's own text, ``[vectors, reference]``.
        neighbours: number of nearest references, or all if there are fewer; NaN if none.
    """
    if not len(vectors) or not len(reference):
        return np.full(len(vectors), np.nan)
    distances = np.clip(1 - vectors @ reference.T, 0, 1)
    distances[own] = np.inf
    nearest = min(neighbours, len(reference))
    distances.partition(nearest - 1, axis=1)
    # Sorted, so that the sum does not depend on the order in which they were found.
    closest = np.sort(distances[:, :nearest], axis=1)
    found = np.isfinite(closest)
    with np.errstate(invalid="ignore"):
        mean: Floats = np.where(found, closest, 0).sum(axis=1) / found.sum(axis=1)
    return mean


def _units(column: pa.ChunkedArray) -> Floats:
    """Vectors of length 1 in double precision: half precision has rounded their lengths."""
    vectors = vectors_of(column).astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True) if len(vectors) else 1.0
    with np.errstate(all="ignore"):
        return np.nan_to_num(vectors / lengths)
