"""The job that benchmarks/near_duplicates.py runs: documents in, near duplicates out."""

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.duplicates.near import NearDuplicates

PIPELINE = Pipeline("near-duplicates", [NearDuplicates("text")])
