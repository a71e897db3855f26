"""The job that benchmarks/quality_scale.py runs: instructions and responses in, subsets out."""

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.score_quality import ScoreQuality
from ray_pipeline.stages.select_subsets import SelectSubsets
from ray_pipeline.stages.split import HoldOut
from ray_pipeline.stages.validate import ValidateInstructions
from ray_pipeline.stages.weigh_scores import WeighScores
from ray_pipeline.stages.write_subsets import WriteSubsets

PIPELINE = Pipeline(
    "quality-scale",
    [ValidateInstructions, ScoreQuality, WeighScores, HoldOut, SelectSubsets, WriteSubsets],
)
