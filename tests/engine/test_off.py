"""What stands for a stage that is turned off."""

from __future__ import annotations

from collections import Counter

import cloudpickle
import pyarrow as pa

from ray_pipeline.core.resources import Resources
from ray_pipeline.core.rows import with_envelope
from ray_pipeline.core.tables import Tables
from ray_pipeline.engine.off import Off
from ray_pipeline.engine.segments import apply_map, cut
from ray_pipeline.stage import DecideStage, MapStage, Settings


class Before(MapStage):
    name = "before"

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        return rows


class Score(DecideStage):
    name = "score"
    reads = {"text": pa.string(), "missing": pa.string()}
    writes = {"text": pa.string(), "score": pa.float64()}
    removes = ("vector",)

    def keys(self, rows: pa.Table) -> pa.Table:
        raise NotImplementedError

    def decide(self, keys: Tables) -> Tables:
        raise NotImplementedError


def applied(**columns: pa.Array) -> pa.Table:
    rows = with_envelope(pa.table(columns), ["a", "b"])
    return apply_map(Off(Score().bound()), rows, Counter())


def test_columns_are_there_and_null() -> None:
    out = applied(text=pa.array(["x", "y"]), vector=pa.array([1, 2]))
    assert out["text"].to_pylist() == ["x", "y"] and out["score"].to_pylist() == [None, None]
    assert out.schema.field("score").type == pa.float64() and "vector" not in out.column_names


def test_what_the_source_brings_stays_where_it_fits() -> None:
    assert applied(score=pa.array([0.5, 1.0]))["score"].to_pylist() == [0.5, 1.0]
    assert applied(score=pa.array(["high", "low"]))["score"].to_pylist() == [None, None]


def test_it_shares_the_segment_of_the_maps_and_needs_nothing() -> None:
    off = cloudpickle.loads(cloudpickle.dumps(Off(Score().bound())))
    assert (off.name, off.reads, off.uses_seed) == ("score", {}, False)
    (segment,) = cut([Before().bound(), off, Before().bound()], "source", save_every_stage=False)
    assert [stage.name for stage in segment.stages] == ["before", "score", "before"]
    assert off.identity() == {"off": True}
    assert off.settings == Settings() and off.models == {} and off.resources() == Resources()
