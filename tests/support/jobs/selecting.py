"""The selecting stages of `quality_tradeoff`, on scores that cost nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.core.rows import set_column
from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stage import MapStage
from ray_pipeline.stages.cleaning.validate import ValidateInstructions
from ray_pipeline.stages.duplicates.near import NearDuplicateInstructions
from ray_pipeline.stages.scoring.weigh import WeighScores
from ray_pipeline.stages.subsets.select import SelectSubsets
from ray_pipeline.stages.subsets.write import WriteSubsets
from ray_pipeline.stages.training.split import HoldOut


class Lengths(MapStage):
    """Scores by the texts' lengths, full of ties; NaN for a response that says so."""

    name = "lengths"
    reads: ClassVar[Mapping[str, pa.DataType]] = {
        "instruction": pa.string(),
        "response": pa.string(),
    }
    writes: ClassVar[Mapping[str, pa.DataType]] = {
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
        ValidateInstructions,
        NearDuplicateInstructions,
        Lengths,
        WeighScores,
        HoldOut,
        SelectSubsets,
        WriteSubsets,
    ],
)
