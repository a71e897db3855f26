"""The tiny experiment as a process: ``python run_experiment.py FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import ray
from tune.tiny_experiment import place, stage, tiny_rows

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    figures = stage(folder).make(tiny_rows(folder), place(folder))
    print(figures)
