"""Stages of the toy job: Shout, Whisper."""

from toy import Shout, Whisper

from ray_pipeline.pipeline import Pipeline

PIPELINE = Pipeline("toy-maps", [Shout(), Whisper()])
