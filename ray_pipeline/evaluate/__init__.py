"""Evaluation: metrics, statistics and experiments. Metrics are those of the field's libraries."""
