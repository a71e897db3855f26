"""What the tests share: one small Ray cluster, the command as a real process, toy runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.command import REPOSITORY, TESTS, Command, InProcess
from support.s3_refusals import Refusals

# For the processes that tests start, Ray's workers among them: they import the toy job's stages.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(
        None,
        [
            str(TESTS),
            str(TESTS / "support" / "jobs"),
            str(REPOSITORY),
            os.environ.get("PYTHONPATH"),
        ],
    )
)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# For torch, in this process and in those that tests start: the threads of two tiny models wait for
# each other in a busy loop where other processes use the cores, and take five times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")


#: Files that take a minute or more, the longest first. Two processes run the tests file by file:
#: a long file that began last would leave one of them without work.
LONGEST_FIRST = [
    "jobs/test_demo.py",
    "jobs/test_quality_tradeoff.py",
    "jobs/test_training.py",
    "engine/test_object_storage.py",
    "tune/test_search.py",
    "jobs/test_qa_decisions.py",
    "tune/test_grid.py",
    "chaos/test_chaos.py",
    "engine/test_budget.py",
    "engine/test_runs.py",
    "llm/engines/test_local.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the longest files first."""
    places = {TESTS / name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """A Ray cluster of two CPUs for the whole session; its address, for other processes."""
    import ray

    context = ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield context.address_info["gcs_address"]
    ray.shutdown()


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """A boto3 client of an S3 server on this machine with a bucket named ``bucket``.

    Its ``refusals`` let the server refuse what writes. The environment names the server too, for
    this process and for those that it starts.
    """
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import boto3

        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        client.refusals = Refusals(server)
        yield client
    server.stop()


@pytest.fixture
def command(ray_cluster: str, tmp_path: Path) -> Command:
    """The command in this process, on the session's cluster, in an empty folder.

    Ray keeps a driver's idle workers for its next run, so a small run takes a second. For what
    starts, joins, loses or kills processes there is `own_process`.
    """
    return InProcess(tmp_path, ray_cluster)


@pytest.fixture
def own_process(ray_cluster: str, tmp_path: Path) -> Command:
    """The command as a process of its own, on the session's cluster, in an empty folder."""
    return Command(ray_cluster, tmp_path)
