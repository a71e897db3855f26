"""A job that reads questions and answers as text."""

from ray_pipeline.pipeline import Pipeline
from ray_pipeline.stages.cleaning.validate import Validate

PIPELINE = Pipeline("toy-pairs", [Validate("question", "answer")])
