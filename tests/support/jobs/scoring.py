"""The scorers one after the other, and how the second half of a job sees what they wrote."""

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.embed import Embed
from ray_pipeline.stages.scoring.ifd import ScoreIfd
from ray_pipeline.stages.scoring.judge import JudgeQuality
from ray_pipeline.stages.scoring.novelty import ScoreNovelty

PIPELINE = Pipeline(
    "scoring",
    [
        ScoreIfd(),
        Embed("instruction", "response", name="embed-instructions", only_for=ScoreNovelty),
        ScoreNovelty(),
        JudgeQuality(),
    ],
)
