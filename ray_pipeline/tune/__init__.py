"""Hyper-parameter search for distillation, on Ray Tune.

- `parameters`  what is varied, in which ranges, and the best that a run's search found
- `trials`      the record of finished trials in the run directory, which a search goes on from
- `sampler`     Optuna's TPE, repeatable from any trial on
- `pruning`     successive halving, told of what an earlier attempt saw
- `trial`       one training under one set of parameters, in a process of its own
- `search`      the search
"""
