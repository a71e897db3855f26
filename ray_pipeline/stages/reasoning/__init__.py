"""Stages that reason about pairs of sentences: labels, thoughts, reflections, fine-tuning sets."""
