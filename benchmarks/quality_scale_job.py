"""The job that benchmarks/quality_scale.py runs: instructions and responses in, scores out."""

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.score_quality import ScoreQuality

PIPELINE = Pipeline("quality-scale", [ScoreQuality])
