"""Stages of the toy job: Shout, First, Whisper."""

from toy import First, Shout, Whisper

from ray_pipeline.pipeline import Pipeline

PIPELINE = Pipeline("toy-decide", [Shout(), First(), Whisper()])
