"""Stages that shorten prompts, check the results, and write them as corpora."""
