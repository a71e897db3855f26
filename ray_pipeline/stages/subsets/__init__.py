"""Stages that select subsets of the best rows and write them."""
