"""What a threshold would keep, against a full sort."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_pipeline.core.errors import UserError
from ray_pipeline.stages.subsets.config import Subset
from ray_pipeline.stages.subsets.preview import preview
from ray_pipeline.stages.subsets.select import content_hashes


class Reader:
    """As much of a `RunReader` as a preview asks for, of a table in parts."""

    segments = ("the only one",)

    def __init__(self, rows: pa.Table, parts: int) -> None:
        self.rows, self.parts = rows, parts
        self.storage = self

    def uri(self) -> str:
        return "runs/made"

    def schema(self, segment: object) -> pa.Schema:
        return self.rows.schema

    def each_unit(self, segment: object, names: list[str]) -> Iterator[tuple[None, pa.Table]]:
        cuts = np.linspace(0, self.rows.num_rows, self.parts + 1).astype(int)
        for start, end in pairwise(cuts):
            yield None, self.rows.slice(start, end - start).select(names)


ROW = st.tuples(
    st.one_of(st.sampled_from([0.5, 0.0, -0.0, 5e-324, None, float("nan")]), st.floats(-1, 1)),
    st.sampled_from("ab"),
    st.sampled_from(["s", "t", None]),
    st.sampled_from(["train", "train", "test"]),
    st.sampled_from(["kept", "kept", "kept", "dropped"]),
)
MEASURE = st.one_of(
    st.builds(lambda n: {"rows": n}, st.integers(1, 40)),
    st.builds(lambda s: {"share": s}, st.sampled_from([0.01, 0.29, 0.5, 1.0])),
    st.builds(lambda q: {"quantile": q}, st.sampled_from([0.0, 0.3, 0.5, 0.99, 1.0])),
    st.builds(lambda m: {"min_score": m}, st.sampled_from([-2.0, 0.0, 0.5, 2.0])),
)


def table(made: list[tuple[Any, ...]]) -> pa.Table:
    columns = list(zip(*made, strict=True)) if made else [[]] * 5
    number = len(made)
    return pa.table(
        {
            "quality": pa.array(columns[0], pa.float64()),
            "instruction": pa.array(columns[1], pa.string()),
            "response": pa.array([""] * number, pa.string()),
            "source": pa.array(columns[2], pa.string()),
            "split": pa.array(columns[3], pa.string()),
            "status": pa.array(columns[4], pa.string()),
            "quality_tokens": pa.array([3**i % 1_000 for i in range(number)], pa.int32()),
            "row_id": pa.array([f"{i * 7919 % 9973}" for i in range(number)], pa.string()),
        }
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=40), MEASURE, st.integers(1, 4))
def test_as_by_a_full_sort(
    made: list[tuple[Any, ...]], measure: dict[str, Any], parts: int
) -> None:
    rows, subset = table(made), Subset(**measure)
    hashes = content_hashes(rows).tolist()
    pool = [
        {**row, "tie": tie}
        for row, tie in zip(rows.to_pylist(), hashes, strict=True)
        if (row["status"], row["split"]) == ("kept", "train")
        and row["quality"] is not None
        and row["quality"] == row["quality"]
    ]
    reader: Any = Reader(rows, parts)
    if not pool:
        with pytest.raises(UserError, match="no row with a score"):
            preview(reader, subset)
        return
    pool.sort(key=lambda row: (-row["quality"], row["tie"], row["row_id"]))
    if subset.is_threshold:
        scores = [row["quality"] for row in pool]
        least = subset.min_score
        if least is None:
            least = np.quantile(scores, subset.quantile, method="inverted_cdf")
        expected = [row for row in pool if row["quality"] >= least]
    else:
        expected = pool[: subset.of(len(pool))]
    found = preview(reader, subset, by="source")
    assert found.pool == len(pool)
    assert found.kept.rows == len(expected)
    assert found.kept.tokens["tokens"] == sum(row["quality_tokens"] for row in expected)
    assert found.pool_tokens == sum(row["quality_tokens"] for row in pool)
    assert found.kept.sources == Counter(str(row["source"]) for row in expected)
    if expected:
        assert found.kept.highest == max(row["quality"] for row in expected)
        assert found.kept.lowest == min(row["quality"] for row in expected)
        mean = np.mean([row["quality"] for row in expected])
        assert found.kept.mean == pytest.approx(mean, rel=1e-12, abs=1e-300)


def test_a_run_without_scores() -> None:
    reader: Any = Reader(table([]).drop_columns(["quality"]), 1)
    with pytest.raises(UserError, match="until weigh-scores"):
        preview(reader, Subset(rows=1))
    reader = Reader(table([(0.5, "a", "s", "train", "kept")]), 1)
    with pytest.raises(UserError, match="did you mean 'source'"):
        preview(reader, Subset(rows=1), by="sauce")
    assert preview(reader, Subset(rows=5)).short_of == 4
