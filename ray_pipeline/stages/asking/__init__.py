"""Stages that ask a model a row's question."""
