"""Makes prompts shorter, checks that they still ask the same, and writes them as corpora.

Run it with ``ray-pipeline run configs/prompt_compression/demo.yaml``, or on a cluster with
``ray job submit -- python jobs/prompt_compression.py --config CONFIG``.
"""

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.cleaning.validate import Validate
from ray_pipeline.stages.compression.baselines import MatchBaselines, ScoreWords
from ray_pipeline.stages.compression.candidates import CheckCandidates, ChooseCompression
from ray_pipeline.stages.compression.compress import CompressPrompts, MakeVariants
from ray_pipeline.stages.compression.corpora import WriteCorpora
from ray_pipeline.stages.compression.curate import Curate
from ray_pipeline.stages.compression.evaluate import EvaluateCompressions
from ray_pipeline.stages.compression.measure import MeasurePrompts
from ray_pipeline.stages.compression.score import ScoreCandidates
from ray_pipeline.stages.compression.summarise import SummariseCompression
from ray_pipeline.stages.compression.train import TrainCompressor
from ray_pipeline.stages.compression.training_rows import TokeniseCompressions
from ray_pipeline.stages.training.split_groups import SplitGroups

PIPELINE = Pipeline(
    "prompt-compression",
    [
        Validate("prompt"),  # drops rows without text
        MeasurePrompts(),  # counts tokens; drops prompts in which every word must stay
        CompressPrompts(),  # the primary pass: a model writes a shorter prompt
        MakeVariants(),  # the variant pass: two variants and a shorter prompt; off by default
        CheckCandidates(),  # what is wrong with the answers, and with deletions by rule
        ScoreCandidates(),  # how likely a model finds each candidate; off by default
        ChooseCompression(),  # takes one candidate, or none
        SummariseCompression(),  # ratios, faults and the yield of each origin
        Curate(),  # drops prompts without a usable compression
        SplitGroups(  # rows for training, validation and test; near twins on one side
            "prompt", by=("prompt",), equal=("prompt",), equal_if_long=("compressed_prompt",)
        ),
        ScoreWords(),  # how surprising a small model finds each word
        MatchBaselines(),  # the same prompts, made as short by simpler means
        WriteCorpora(),  # all prompts, at most 128 tokens, at most 64, with their splits
        TokeniseCompressions(),  # for the model that learns to compress; off by default
        TrainCompressor(),  # an encoder-decoder, a causal model, or one that keeps or drops words
        EvaluateCompressions(),  # what shorter prompts cost a model; off by default
    ],
)

if __name__ == "__main__":
    from ray_pipeline.cli.app import job_main

    job_main(PIPELINE)
