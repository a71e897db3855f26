"""Stages of the toy job: Shout alone."""

from toy import Shout

from ray_pipeline.pipeline import Pipeline

PIPELINE = Pipeline("toy-shout", [Shout()])
