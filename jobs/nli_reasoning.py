"""Reasons about premise-hypothesis pairs, reflects on what was wrong, writes a fine-tuning set.

Run it with ``ray-pipeline run configs/nli_reasoning/demo.yaml``, or on a cluster with
``ray job submit -- python jobs/nli_reasoning.py --config configs/nli_reasoning/cluster.yaml``.
"""

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.reasoning.blind_check import BlindCheck
from ray_pipeline.stages.reasoning.choose_reasoning import ChooseReasoning
from ray_pipeline.stages.reasoning.evaluate_pairs import EvaluatePairs
from ray_pipeline.stages.reasoning.fine_tuning_set import FineTuningSet
from ray_pipeline.stages.reasoning.pair_text import PairText
from ray_pipeline.stages.reasoning.reflect import Reflect
from ray_pipeline.stages.reasoning.repeated_pairs import RepeatedPairs
from ray_pipeline.stages.reasoning.split_pairs import GivenSplits, PairsInTwoSplits, SplitPairs
from ray_pipeline.stages.reasoning.think import Think
from ray_pipeline.stages.reasoning.tune_pairs import TunePairs
from ray_pipeline.stages.reasoning.validate_pairs import ValidatePairs

PIPELINE = Pipeline(
    "nli-reasoning",
    [
        ValidatePairs(),  # drops what is not a pair with a label
        RepeatedPairs(),  # reports equal pairs, and pairs with two labels
        SplitPairs(),  # rows for training, validation and test; shared sentences on one side
        GivenSplits(),  # keeps the splits of files that were split before; off by default
        PairsInTwoSplits(),  # no pair is trained on and measured on
        Think(),  # a model reasons about each pair and predicts its label
        Reflect(1),  # a second model reasons anew where that was wrong
        BlindCheck(1),  # does the new reasoning lead to the label without having been told it?
        Reflect(2),  # tries again where it did not
        BlindCheck(2),
        ChooseReasoning(),  # thoughts, reflection, or none; lists suspected labels
        PairText("reasoning"),  # questions and answers of the fine-tuning
        FineTuningSet(),  # as JSONL with Mistral's tags, or any chat template
        TunePairs("labels"),  # fine-tunes a model on labels alone; off by default
        TunePairs("reasoning"),  # on reasonings and labels; off by default
        EvaluatePairs(),  # accuracy and macro-F1 on every held-out pair, beside controls
    ],
)

if __name__ == "__main__":
    from ray_pipeline.cli.app import job_main

    job_main(PIPELINE)
