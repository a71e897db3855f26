"""The job that benchmarks/quality_scale.py runs: instructions and responses in, subsets out."""

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.cleaning.validate import ValidateInstructions
from ray_pipeline.stages.scoring.heuristics import ScoreQuality
from ray_pipeline.stages.scoring.weigh import WeighScores
from ray_pipeline.stages.subsets.select import SelectSubsets
from ray_pipeline.stages.subsets.write import WriteSubsets
from ray_pipeline.stages.training.split import HoldOut

PIPELINE = Pipeline(
    "quality-scale",
    [ValidateInstructions, ScoreQuality, WeighScores, HoldOut, SelectSubsets, WriteSubsets],
)
