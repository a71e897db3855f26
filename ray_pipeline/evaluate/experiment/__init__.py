"""What an experiment on subsets shows: its cells, verdicts and figures."""
