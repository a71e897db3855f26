"""Ray clusters in processes of their own, beside the session's cluster of two CPUs."""

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
context = ray.init(
    address="local", num_cpus=int(sys.argv[1]), include_dashboard=False, log_to_driver=False
)
print("address", context.address_info["gcs_address"], flush=True)
sys.stdin.read()
ray.shutdown()
"""


def one_cpu_cluster() -> contextlib.AbstractContextManager[dict[str, str]]:
    """As `other_cluster`, with the least that there can be."""
    return other_cluster(1)


@contextlib.contextmanager
def other_cluster(num_cpus: int) -> Iterator[dict[str, str]]:
    """Start one; gives the environment of those who join it, and ends it with the block.

    Its workers have the environment of this process.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(num_cpus)],
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
            raise AssertionError("the cluster did not start")
    finally:
        process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
        process.stdout.close()
