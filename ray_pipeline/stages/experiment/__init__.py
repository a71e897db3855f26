"""Stages that train a model on each subset and compare them."""
