"""The job that benchmarks/quality_scale.py runs: instructions and responses in, subsets out."""

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.cleaning.validate import Validate
from ray_pipeline.stages.scoring.heuristics import ScoreQuality
from ray_pipeline.stages.scoring.weigh import WeighScores
from ray_pipeline.stages.subsets.select import SelectSubsets
from ray_pipeline.stages.subsets.write import WriteSubsets
from ray_pipeline.stages.training.split import Split

PIPELINE = Pipeline(
    "quality-scale",
    [
        Validate("instruction", "response"),
        ScoreQuality(),
        WeighScores(),
        Split(by=("instruction", "response")),
        SelectSubsets(),
        WriteSubsets(),
    ],
)
