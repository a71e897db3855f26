"""The decide stages of `qa_distillation`, one after another, on rows that are no usual ones."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from support.command import TESTS
from support.local_tables import decisions
from support.stage_tables import table

from ray_pipeline.stage import Settings
from ray_pipeline.stages.duplicates.exact import ExactDuplicates, SameText
from ray_pipeline.stages.duplicates.near import NearDuplicates
from ray_pipeline.stages.outliers.clusters import OutlierClusters

sys.path.append(str(TESTS / "support" / "jobs"))
from deciding import BagOfWords

WILD = {
    "one": [("just one", "row")],
    "equal": [("the same", "row")] * 250,
    "empty": [("", "")] * 40,
    "long": [
        ("q", "word " * 20_000),
        ("q", "x" * 100_000),
    ],
    "nan": [(f"nan {i % 3}", "no numbers") for i in range(30)],
}


def decided(pairs: list[tuple[str, str]], folder: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """How many rows come through, and what the clustering said of each."""
    rows = BagOfWords().apply(table(pairs), Counter())
    clusters = OutlierClusters().bound(
        OutlierClusters.Config(exact_rows=100, part_rows=100, dimensions=8), Settings(seed=7)
    )
    near = NearDuplicates("question", "answer").bound(
        NearDuplicates.Config(must_equal=[], ngram=2), Settings(seed=7)
    )
    first: dict[str, dict[str, Any]] = {}
    for stage in (
        clusters,
        ExactDuplicates("question", "answer").bound(),
        SameText("question").bound(),
        SameText("answer", ignore=("true", "false")).bound(),
        near,
    ):
        found = decisions(stage, rows, folder / stage.name, units=3)
        first = found if stage is clusters else first
        gone = [row_id for row_id, one in found.items() if one["status"] is not None]
        rows = rows.filter(pc.invert(pc.is_in(rows["row_id"], pa.array(gone, pa.string()))))
    return rows.num_rows, first


@pytest.mark.parametrize(
    ("kind", "kept"), [("one", 1), ("equal", 1), ("empty", 1), ("long", 2), ("nan", 3)]
)
def test_wild_rows(tmp_path: Path, kind: str, kept: int) -> None:
    left, clusters = decided(WILD[kind], tmp_path)
    assert left == kept
    scores = {row_id: one["outlier_score"] for row_id, one in clusters.items()}
    if kind == "nan":
        assert set(scores.values()) <= {None}
    if kind == "equal":
        assert set(scores.values()) == {0.0}
