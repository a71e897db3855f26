"""The stages: what happens to the rows, one file for each concern."""
