"""Prompt retrieval: a golden set, what retrievers score on it, and a fine-tuned embedding model."""
