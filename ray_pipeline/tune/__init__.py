"""Many trainings at the same time, on Ray Tune: a hyper-parameter search, and an experiment's grid.

- `trials`     what is searched, in which ranges, and the record of finished trials; without Ray
- `proposals`  what a search tries next (TPE) and which trials it stops early (ASHA)
- `search`     the search
- `cells`      the trainings of an experiment, and the records that they leave; without Ray
- `grid`       the experiment
- `runner`     what `search` and `grid` share: resources, watching, starting over
"""
