"""Makes a golden set of queries and writing prompts, measures retrievers on it, fine-tunes one.

How far does fine-tuning an embedding model take prompt retrieval? Run it with
``ray-pipeline run configs/prompt_retrieval/demo.yaml``, or on a cluster with
``ray job submit -- python jobs/prompt_retrieval.py --config CONFIG``.
"""

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.cleaning.validate import Validate
from ray_pipeline.stages.duplicates.exact import ExactDuplicates
from ray_pipeline.stages.retrieval.baselines import MeasureRetrievers
from ray_pipeline.stages.retrieval.compare import CompareRetrievers
from ray_pipeline.stages.retrieval.embed import EmbedForRetrieval
from ray_pipeline.stages.retrieval.split import SplitFamilies
from ray_pipeline.stages.retrieval.tags import TagPrompts
from ray_pipeline.stages.retrieval.tune import TuneRetriever
from ray_pipeline.stages.retrieval.write_golden import WriteGolden

CORPUS, QUERIES = ("corpus",), ("queries",)

PIPELINE = Pipeline(
    "prompt-retrieval",
    [
        Validate("prompt", name="validate-prompts", sources=CORPUS),  # drops prompts without text
        Validate("query", "wants", name="validate-queries", sources=QUERIES),
        ExactDuplicates(  # one of prompts that say the same
            "prompt", name="duplicate-prompts", sources=CORPUS, export="duplicate_prompts.csv"
        ),
        ExactDuplicates(
            "query", name="duplicate-queries", sources=QUERIES, export="duplicate_queries.csv"
        ),
        TagPrompts(
            sources=CORPUS
        ),  # <Fantasy> </Fantasy> <Magic> </Magic> <Title> </Title> prompt …
        SplitFamilies(),  # holds out whole genres, themes and wordings
        EmbedForRetrieval(),  # by each model that is compared, with tags and without
        WriteGolden(),  # who asks for what; hard negatives; a leak fails the run
        MeasureRetrievers(),  # words, tags, static and sentence embeddings, and their fusion
        TuneRetriever(),  # fine-tunes the best embedding model, and a control on shuffled pairs
        CompareRetrievers(),  # before and after, on the same held-out queries; what was forgotten
    ],
)

if __name__ == "__main__":
    from ray_pipeline.cli.app import job_main

    job_main(PIPELINE)
