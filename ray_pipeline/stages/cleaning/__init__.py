"""Stages that validate and clean text."""
