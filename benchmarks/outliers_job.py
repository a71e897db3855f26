"""The job that benchmarks/outliers.py runs: texts in, clusters and outlier scores out."""

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.embed import Embed
from ray_pipeline.stages.outliers.clusters import OutlierClusters

PIPELINE = Pipeline("outliers", [Embed("question", "answer"), OutlierClusters()])
