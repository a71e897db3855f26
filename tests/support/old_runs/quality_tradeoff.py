"""The stages of the job quality_tradeoff when the archive beside this file was made."""

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
from ray_pipeline.stages.training.split import Split
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
        Split(by=TEXTS),  # holds out rows for validation and test
        Tokenise(
            *TEXTS,
            model="gpt2-tokenizer",
            text={
                "style": "plain",
                "prompt": "Instruction: {question}\nResponse:",
                "learn": "all",
            },
        ),
        SelectSubsets(),  # the best 10k, 100k, 1M, each with a random control of its size
        WriteSubsets(),  # as Parquet and Hugging Face datasets, with their scores
        TrainSubsets(),  # trains a model from scratch for each subset, control and seed
        SubsetGenerations(),  # lets the models write, and measures it
        AnalyseTradeoff(),  # is less enough, and from which quality on?
    ],
)
