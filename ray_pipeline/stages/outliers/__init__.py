"""Stages that find rows which do not belong."""
