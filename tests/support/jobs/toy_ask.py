"""Stages of the toy job: Shout, Ask, Whisper."""

from toy import Ask, Shout, Whisper

from ray_pipeline.pipeline import Pipeline

PIPELINE = Pipeline("toy-ask", [Shout(), Ask(), Whisper()])
