"""Stages that train and evaluate models."""
