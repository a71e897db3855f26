"""Scores a corpus for quality, selects nested subsets of its best rows, trains models on each.

Is less, better data enough? Run it with ``ray-pipeline run configs/quality_tradeoff/demo.yaml``, or
on a cluster with ``ray job submit -- python jobs/quality_tradeoff.py --config CONFIG``.
"""

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.cleaning.validate import Validate
from ray_pipeline.stages.duplicates.near import NearDuplicates
from ray_pipeline.stages.embed import Embed
from ray_pipeline.stages.experiment.analyse import AnalyseTradeoff
from ray_pipeline.stages.experiment.generations import SubsetGenerations
from ray_pipeline.stages.experiment.train import TrainSubsets
from ray_pipeline.stages.scoring.heuristics import ScoreQuality
from ray_pipeline.stages.scoring.ifd import ScoreIfd
from ray_pipeline.stages.scoring.judge import JudgeQuality
from ray_pipeline.stages.scoring.novelty import ScoreNovelty
from ray_pipeline.stages.scoring.weigh import WeighScores
from ray_pipeline.stages.subsets.select import SelectSubsets
from ray_pipeline.stages.subsets.write import WriteSubsets
from ray_pipeline.stages.training.leak import MeasureLeak
from ray_pipeline.stages.training.split_groups import SplitGroups
from ray_pipeline.stages.training.tokenise import Tokenise

TEXTS = ("instruction", "response")

PIPELINE = Pipeline(
    "quality-tradeoff",
    [
        Validate(*TEXTS),  # drops rows without text
        NearDuplicates(
            *TEXTS, enabled=False, ngram=5, must_equal=()
        ),  # drops nearly equal rows; off by default
        ScoreQuality(),  # clarity, response quality, diversity, complexity, by rules
        ScoreIfd(),  # how little the instruction helps a small model; off by default
        Embed(*TEXTS, name="embed-instructions", only_for=ScoreNovelty),
        ScoreNovelty(),  # how far a row lies from similar ones; off by default
        JudgeQuality(),  # a model rates the four dimensions; off by default
        WeighScores(),  # combines the scores to one quality
        SplitGroups(  # holds out rows for validation and test, none of them like a training row
            *TEXTS, by=TEXTS, equal=("instruction",), equal_if_long=("response",)
        ),
        Tokenise(
            *TEXTS,
            model="gpt2-tokenizer",
            text={
                "style": "plain",
                "prompt": "Instruction: {question}\nResponse:",
                "learn": "all",
            },
        ),
        SelectSubsets(draws=3),  # the best 10k, 100k, 1M, and random controls of their sizes
        MeasureLeak(  # counts test rows with a twin in a subset
            *TEXTS, equal=("instruction",), equal_if_long=("response",)
        ),
        WriteSubsets(),  # as Parquet and Hugging Face datasets, with their scores
        TrainSubsets(),  # trains a model from scratch for each subset, control and seed
        SubsetGenerations(),  # lets the models write, and measures it
        AnalyseTradeoff(),  # is less enough, and from which quality on?
    ],
)

if __name__ == "__main__":
    from ray_pipeline.cli.app import job_main

    job_main(PIPELINE)
