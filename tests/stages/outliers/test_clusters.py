"""Clusters of rows in parts: far more rows than one part or one exchange holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.local_tables import decisions

from ray_pipeline.engine import stored_tables
from ray_pipeline.stage import Settings
from ray_pipeline.stages.embed import embedding_column
from ray_pipeline.stages.outliers.clusters import OutlierClusters


def embedded(number: int, seed: int = 1) -> pa.Table:
    """Rows about ten things, in eight dimensions, and one in fifty about nothing."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(10, 8))
    vectors = centres[random.integers(10, size=number)] + random.normal(size=(number, 8)) * 0.05
    vectors[::50] = random.normal(size=(len(vectors[::50]), 8)) * 2
    usable = np.ones(number, dtype=bool)
    ids = [f"row-{i}" for i in range(number)]
    column = embedding_column(vectors.astype(np.float32), usable)
    return pa.table({"row_id": ids, "embedding": column})


@pytest.mark.parametrize("dimensions", [None, 4])
def test_in_parts_whatever_the_exchange(
    tmp_path: Path, dimensions: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = embedded(3_000)
    # So few, that every group is one of several parts: most of those of a single group are empty.
    monkeypatch.setattr(stored_tables, "_ONE_PART_ROWS", 100)
    found = {}
    for units in (1, 16):
        config = OutlierClusters.Config(exact_rows=500, part_rows=400, dimensions=dimensions)
        stage = OutlierClusters().bound(config, Settings(seed=7))
        folder = tmp_path / str(units)
        found[units] = decisions(stage, rows, folder, units)
    assert found[1] == found[16]
    assert len(found[1]) == 3_000
    scores = np.array([found[1][f"row-{i}"]["outlier_score"] for i in range(3_000)])
    alone = np.arange(3_000) % 50 == 0
    assert np.median(scores[alone]) > np.quantile(scores[~alone], 0.9)
