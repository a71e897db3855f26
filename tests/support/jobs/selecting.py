"""The selecting stages of `quality_tradeoff`, on scores that cost nothing."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.core.rows import set_column
from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stage import MapStage
from ray_pipeline.stages.cleaning.validate import Validate
from ray_pipeline.stages.duplicates.near import NearDuplicates
from ray_pipeline.stages.scoring.weigh import WeighScores
from ray_pipeline.stages.subsets.select import SelectSubsets
from ray_pipeline.stages.subsets.write import WriteSubsets
from ray_pipeline.stages.training.split import Split


class Lengths(MapStage):
    """Scores by the texts' lengths, full of ties; NaN for a response that says so."""

    name = "lengths"
    reads = {
        "instruction": pa.string(),
        "response": pa.string(),
    }
    writes = {
        "clarity": pa.float64(),
        "complexity": pa.float64(),
        "quality_tokens": pa.int32(),
    }

    def apply(self, rows: pa.Table, counts: Counter[str]) -> pa.Table:
        asked = pc.divide(pc.utf8_length(rows["instruction"]).cast(pa.float64()), 100.0)
        said = pc.divide(pc.utf8_length(rows["response"]).cast(pa.float64()), 100.0)
        said = pc.if_else(pc.equal(rows["response"], "nan"), float("nan"), said)
        rows = set_column(rows, "clarity", asked)
        rows = set_column(rows, "complexity", said)
        return set_column(rows, "quality_tokens", pc.utf8_length(rows["response"]).cast(pa.int32()))


PIPELINE = Pipeline(
    "selecting",
    [
        Validate("instruction", "response"),
        NearDuplicates("instruction", "response", enabled=False, ngram=5, must_equal=()),
        Lengths(),
        WeighScores(),
        Split(by=("instruction", "response")),
        SelectSubsets(),
        WriteSubsets(),
    ],
)
