"""Stages of the toy job and two artifacts; what they write is recorded."""

from power_stages import Ask, First, Recount, Shout, Summarise, Whisper

from ray_pipeline.pipeline import Pipeline

PIPELINE = Pipeline("toy-power", [Shout(), Ask(), First(), Whisper(), Summarise(), Recount()])
