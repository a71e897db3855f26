"""Scores a corpus for quality, selects nested subsets of its best rows, trains models on each.

Is less, better data enough? Run it with ``ray-pipeline run configs/quality_tradeoff/demo.yaml``, or
on a cluster with ``ray job submit -- python jobs/quality_tradeoff.py --config CONFIG``.
"""

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.cleaning.validate import ValidateInstructions
from ray_pipeline.stages.duplicates.near import NearDuplicateInstructions
from ray_pipeline.stages.experiment.analyse import AnalyseTradeoff
from ray_pipeline.stages.experiment.generations import SubsetGenerations
from ray_pipeline.stages.experiment.train import TrainSubsets
from ray_pipeline.stages.scoring.heuristics import ScoreQuality
from ray_pipeline.stages.scoring.ifd import ScoreIfd
from ray_pipeline.stages.scoring.judge import JudgeQuality
from ray_pipeline.stages.scoring.novelty import EmbedInstructions, ScoreNovelty
from ray_pipeline.stages.scoring.weigh import WeighScores
from ray_pipeline.stages.subsets.select import SelectSubsets
from ray_pipeline.stages.subsets.write import WriteSubsets
from ray_pipeline.stages.training.split import HoldOut
from ray_pipeline.stages.training.tokenise import TokeniseInstructions

PIPELINE = Pipeline(
    "quality-tradeoff",
    [
        ValidateInstructions,  # instruction and response are there and hold text
        NearDuplicateInstructions,  # off by default
        ScoreQuality,  # clarity, response quality, diversity, complexity, by rules
        ScoreIfd,  # how much the instruction helps a small model; off by default
        EmbedInstructions,
        ScoreNovelty,  # how far a row lies from the others; off by default
        JudgeQuality,  # the four dimensions as a model sees them; off by default
        WeighScores,  # one quality of several scores
        HoldOut,  # rows to validate and to test on, which no subset sees
        TokeniseInstructions,
        SelectSubsets,  # the best 10k, 100k, 1M, each with a random control of its size
        WriteSubsets,  # as Parquet, as Hugging Face datasets, with their scores
        TrainSubsets,  # one model from scratch for each subset, control and seed
        SubsetGenerations,  # what these models write
        AnalyseTradeoff,  # is less enough, and from which quality on?
    ],
)

if __name__ == "__main__":
    from ray_pipeline.cli.app import job_main

    job_main(PIPELINE)
