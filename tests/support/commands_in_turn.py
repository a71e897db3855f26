"""Several commands in one process, on a Ray cluster of its own that has its environment.

    python -m support.commands_in_turn 'run config.yaml' 'status run' ...

prints ``exit CODE`` after each.
"""

from __future__ import annotations

import os
import shlex
import sys


def main() -> None:
    """Run the commands in `sys.argv`."""
    import ray

    from ray_pipeline.cli.app import app

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    for line in sys.argv[1:]:
        code: object = 0
        try:
            app(shlex.split(line))
        except SystemExit as end:
            code = end.code
        os.write(1, f"\nexit {code}\n".encode())
    ray.shutdown()
