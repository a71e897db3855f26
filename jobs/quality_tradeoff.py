"""A corpus scored for quality, nested subsets of its best rows, and models trained on each.

Is less, better data enough? Run it with ``ray-pipeline run configs/quality_tradeoff/demo.yaml``;
on a cluster ``ray job submit -- python jobs/quality_tradeoff.py`` takes the same ``--config``.
"""

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.analyse_tradeoff import AnalyseTradeoff
from ray_pipeline.stages.judge_quality import JudgeQuality
from ray_pipeline.stages.near_duplicates import NearDuplicateInstructions
from ray_pipeline.stages.score_ifd import ScoreIfd
from ray_pipeline.stages.score_novelty import EmbedInstructions, ScoreNovelty
from ray_pipeline.stages.score_quality import ScoreQuality
from ray_pipeline.stages.select_subsets import SelectSubsets
from ray_pipeline.stages.split import HoldOut
from ray_pipeline.stages.subset_generations import SubsetGenerations
from ray_pipeline.stages.tokenise import TokeniseInstructions
from ray_pipeline.stages.train_subsets import TrainSubsets
from ray_pipeline.stages.validate import ValidateInstructions
from ray_pipeline.stages.weigh_scores import WeighScores
from ray_pipeline.stages.write_subsets import WriteSubsets

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
    PIPELINE.main()
