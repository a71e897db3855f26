"""Outlier scores of rows by meaning: HDBSCAN and GLOSH on the embeddings.

Campello, Moulavi and Sander, "Density-Based Clustering Based on Hierarchical Density Estimates"
(2013), and their outlier score GLOSH (2015): 0 for the core of a cluster, towards 1 for a row whose
neighbourhood is much thinner than that of the cluster next to it.

The cost of HDBSCAN grows with the square of the rows. Beyond `exact_rows` of them, they are cut
into parts of similar rows (k-means on their principal components), and each part is clustered by
itself, in all dimensions: the cost then grows with the rows. `benchmarks/outliers.py` measures how
far the two agree; fewer dimensions agree far less.

A part is mostly about one topic, so HDBSCAN may return it as a single cluster; otherwise it splits
related rows and puts most of a part outside of all clusters.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ray_pipeline.core.tables import REF, Tables
from ray_pipeline.models.embedder import Vectors
from ray_pipeline.stage import DecideStage, StageConfig
from ray_pipeline.stages.embed import EMBEDDING, vectors_of
from ray_pipeline.stages.text.keys import text_hash

#: Dimensions in which rows are assigned to their nearest centre.
_PART_DIMENSIONS = 32


class OutlierClusters(DecideStage):
    """Writes each row's cluster (-1: none) and its GLOSH score; drops nothing.

    Both are null for rows without a usable embedding, and if there are too few rows to cluster.
    """

    name = "outlier-clusters"
    version = 2
    reads = {"embedding": EMBEDDING}
    writes = {
        "outlier_cluster": pa.int64(),
        "outlier_score": pa.float32(),
    }
    #: Takes kilobytes per row, which later stages would otherwise copy.
    removes = ("embedding",)
    uses_seed = True

    class Config(StageConfig):
        min_cluster_size: int = Field(6, ge=2, description="minimum number of rows in a cluster")
        min_samples: int | None = Field(
            None,
            ge=1,
            description="HDBSCAN's min_samples: the number of neighbours that define density; "
            "null: min_cluster_size",
        )
        exact_rows: int = Field(
            10_000,
            ge=100,
            description="maximum number of rows that are clustered together; larger sets are "
            "split into parts, each of which is clustered separately",
        )
        part_rows: int = Field(
            4_000,
            ge=100,
            description="approximate number of rows per part, if there are more than exact_rows",
        )
        dimensions: int | None = Field(
            None,
            ge=2,
            description="number of dimensions to which the embeddings of a part are reduced, if "
            "there are more rows than exact_rows; null: they are not reduced",
        )
        sample_rows: int = Field(
            20_000,
            ge=100,
            description="number of sampled rows to which the parts and the reduction are fitted",
        )

    config: Config

    def keys(self, rows: pa.Table) -> pa.Table:
        """The usable embeddings, and a sort key that does not depend on position or unit."""
        order = [text_hash([row_id]) for row_id in rows["row_id"].to_pylist()]
        table = pa.table(
            {REF: rows[REF], "order": pa.array(order, pa.uint64()), "embedding": rows["embedding"]}
        )
        table = table.filter(pc.is_valid(table["embedding"]))
        return table.filter(pa.array(np.isfinite(vectors_of(table["embedding"])).all(axis=1)))

    def decide(self, keys: Tables) -> Tables:
        """Compute the cluster and the score of all rows that have an embedding."""
        keys = keys.saved()
        rows = keys.num_rows
        if rows <= self.config.exact_rows:
            together = keys.map(lambda table: _with_part(table, np.zeros(table.num_rows, np.int64)))
        else:
            sample = keys.map(self._least).group(["all"], self._least, order=["order"])
            parts = -(-rows // self.config.part_rows)
            fitted = sample.map(lambda table: _fit(self.config, self.settings.seed, parts, table))
            reduce = partial(_in_parts, self.config.dimensions is not None)
            together = keys.map_with(fitted.saved(), reduce)
        return together.group(["part"], self._cluster_parts, order=["order"])

    def _least(self, table: pa.Table) -> pa.Table:
        """The first rows in the order of hashes: a sample that every layout agrees on."""
        first = table.sort_by("order").slice(0, self.config.sample_rows)
        if "all" in first.column_names:
            return first
        return first.append_column("all", pa.array(np.zeros(first.num_rows, np.int64)))

    def _cluster_parts(self, groups: pa.Table) -> pa.Table:
        part = groups["part"].to_numpy()
        vectors = vectors_of(groups["embedding"])
        cluster = np.full(len(part), -1, dtype=np.int64)
        score = np.zeros(len(part), dtype=np.float32)
        enough = np.ones(len(part), dtype=bool)
        for number in np.unique(part):
            mine = part == number
            if mine.sum() < 2 * self.config.min_cluster_size:
                enough[mine] = False
                continue
            labels, score[mine] = _cluster(
                vectors[mine], self.config.min_cluster_size, self.config.min_samples
            )
            # A cluster's number includes its part's number, so that it is unique.
            cluster[mine] = np.where(labels < 0, -1, (number << 20) + labels)
        nothing = pa.nulls(len(part), pa.string())
        return pa.table(
            {
                REF: groups[REF],
                "status": nothing,
                "reason": nothing,
                "outlier_cluster": pa.array(cluster, mask=~enough),
                "outlier_score": pa.array(score, mask=~enough),
            }
        )


def _with_part(table: pa.Table, part: npt.NDArray[Any]) -> pa.Table:
    return table.append_column("part", pa.array(part.astype(np.int64)))


def _cluster(
    vectors: Vectors, min_cluster_size: int, min_samples: int | None
) -> tuple[npt.NDArray[np.int64], Vectors]:
    """HDBSCAN's labels and GLOSH scores of vectors, at least twice ``min_cluster_size``."""
    import hdbscan

    if (vectors == vectors[0]).all():
        return np.zeros(len(vectors), np.int64), np.zeros(len(vectors), np.float32)
    clusterer = hdbscan.HDBSCAN(
        min_cluster_size=min_cluster_size,
        min_samples=min_samples,
        allow_single_cluster=True,
        core_dist_n_jobs=1,  # parallelism comes from clustering parts at the same time
    )
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Equal vectors have no distance: 0/0 in the scores, which are then 0.
        warnings.simplefilter("ignore")
        labels = clusterer.fit_predict(vectors.astype(np.float64))
        scores = np.nan_to_num(clusterer.outlier_scores_, nan=0.0)
    return labels.astype(np.int64), np.clip(scores, 0, 1).astype(np.float32)


def _fit(config: OutlierClusters.Config, seed: int, parts: int, sample: pa.Table) -> pa.Table:
    """Mean, principal axes and centres of a sample, as rows of a small table."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits

    vectors = vectors_of(sample["embedding"])
    if not len(vectors):  # the sample is one group, and a part without it is empty
        return _fitted({})
    # One thread: sums in another order would move the last digits, and with them rows.
    with threadpool_limits(1):
        dimensions = min(config.dimensions or _PART_DIMENSIONS, *vectors.shape)
        reduction = PCA(dimensions, svd_solver="covariance_eigh").fit(vectors)
        reduced = reduction.transform(vectors)
        centres = KMeans(min(parts, len(reduced)), n_init=1, random_state=seed).fit(reduced)
    arrays = {
        "mean": reduction.mean_[None, :],
        "axes": reduction.components_,
        "centres": centres.cluster_centers_,
    }
    return _fitted(arrays)


def _fitted(arrays: Mapping[str, Vectors]) -> pa.Table:
    kinds = [name for name, array in arrays.items() for _ in array]
    values = [row.astype(np.float32).tolist() for array in arrays.values() for row in array]
    columns = {"kind": pa.array(kinds, pa.string())}
    return pa.table({**columns, "values": pa.array(values, pa.list_(pa.float32()))})


def _in_parts(reduce: bool, table: pa.Table, fitted: pa.Table) -> pa.Table:
    """The rows with the number of the nearest centre as their part; in fewer dimensions or not."""

    def array(kind: str) -> Vectors:
        rows = fitted.filter(pc.equal(fitted["kind"], kind))["values"].to_pylist()
        return np.array(rows, dtype=np.float32)

    reduced = (vectors_of(table["embedding"]) - array("mean")) @ array("axes").T
    centres = array("centres")
    distances = (centres**2).sum(axis=1) - 2 * reduced @ centres.T
    if reduce:
        vectors = pa.array(list(reduced), pa.list_(pa.float32()))
        table = table.set_column(table.schema.get_field_index("embedding"), "embedding", vectors)
    return _with_part(table, distances.argmin(axis=1) if len(reduced) else np.empty(0))
