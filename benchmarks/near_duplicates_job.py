"""The job that benchmarks/near_duplicates.py runs: documents in, near duplicates out."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import pyarrow as pa

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.duplicates.near import NearDuplicates


class NearDuplicateTexts(NearDuplicates):
    """Of documents with one text column."""

    columns: ClassVar[Sequence[str]] = ("text",)
    reads: ClassVar[Mapping[str, pa.DataType]] = {"text": pa.string()}


PIPELINE = Pipeline("near-duplicates", [NearDuplicateTexts])
