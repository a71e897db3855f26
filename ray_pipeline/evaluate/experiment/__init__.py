"""The analysis of an experiment on subsets: cells, statistics, verdicts and figures."""
