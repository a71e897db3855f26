"""Answers every question of a file with a model, on the pipeline's own engines.

Run it with ``ray-pipeline run configs/answer_questions/local.yaml``.
"""

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.asking.answer import Answer

PIPELINE = Pipeline("answer-questions", [Answer()])

if __name__ == "__main__":
    from ray_pipeline.cli.app import job_main

    job_main(PIPELINE)
