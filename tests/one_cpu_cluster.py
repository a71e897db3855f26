"""A Ray cluster of one CPU, in a process of its own, beside the session's cluster of two."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

#: What Ray gives its own clusters by default; who joins one from another process must know.
_AUTH = {"RAY_AUTH_MODE": "token"}
_SERVE = """
import sys, ray
context = ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
print("address", context.address_info["gcs_address"], flush=True)
sys.stdin.read()
ray.shutdown()
"""


@contextlib.contextmanager
def one_cpu_cluster() -> Iterator[dict[str, str]]:
    """Start it; gives the environment of those who join it, and ends it with the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE],
        env={**os.environ, **_AUTH},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("address "):
                yield {"RAY_ADDRESS": line.split()[1], **_AUTH}
                break
        else:
            raise AssertionError("the cluster of one CPU did not start")
    finally:
        process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
        process.stdout.close()
