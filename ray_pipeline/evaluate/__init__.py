"""Evaluation: what a model's answers are worth, by the field's own libraries where they exist."""
