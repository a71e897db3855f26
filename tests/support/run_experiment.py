"""The tiny experiment as a process: ``run_experiment FOLDER``, on the cluster of `RAY_ADDRESS`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import ray
from support.tiny_experiment import place, stage, tiny_rows


def main() -> None:
    folder = Path(sys.argv[1])
    ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
    stage(folder).make(tiny_rows(folder), place(folder))
    sys.stdout.flush()
