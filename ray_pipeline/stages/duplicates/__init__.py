"""Stages that find rows which say the same."""
