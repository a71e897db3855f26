"""Stages that score a row's quality."""
