"""Training data made with language models, and models trained on it, on Ray."""

__version__ = "0.1.0"
