"""Stages that rewrite, convert and augment questions."""
