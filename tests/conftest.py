"""What the tests share: one small Ray cluster, the command as a real process, toy runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

TESTS = Path(__file__).parent
REPOSITORY = TESTS.parent
sys.path.insert(0, str(TESTS))
from fork_server import Started

# For the processes that tests start, Ray's workers among them: they import the toy job's stages.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(TESTS / "jobs"), str(REPOSITORY), os.environ.get("PYTHONPATH")])
)
os.environ.setdefault("HF_HUB_OFFLINE", "1")


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

    The environment names the server too, for this process and for those that it starts.
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
        yield client
    server.stop()


@dataclass
class Finished:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


class Command:
    """The `ray-pipeline` command as a process of its own, on the session's cluster.

    Forked from a process that has imported Ray already: see `fork_server`.
    """

    def __init__(self, address: str | None, folder: Path) -> None:
        self.folder = folder
        self.environment = dict(os.environ)
        if address is not None:
            self.environment["RAY_ADDRESS"] = address

    def start(self, *arguments: str | Path, **env: str) -> Started:
        """Start it in the background."""
        words = [str(argument) for argument in arguments]
        return Started("ray_pipeline.cli", words, self.folder, self.environment | env)

    def __call__(self, *arguments: str | Path, timeout: float = 180, **env: str) -> Finished:
        """Run it to its end."""
        process = self.start(*arguments, **env)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"the command hung:\n{out}\n{err}") from None
        return Finished(process.returncode, out, err)

    def both(self, *arguments: str | Path, **env: str) -> list[Finished]:
        """Run `plan` and `run` at the same time: for what they refuse with the same words."""
        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(lambda verb: self(verb, *arguments, **env), ("plan", "run")))


@pytest.fixture
def command(ray_cluster: str, tmp_path: Path) -> Command:
    """The command on the session's cluster, in an empty folder."""
    return Command(ray_cluster, tmp_path)


@dataclass
class Toy:
    """A toy job in a folder: its configuration file, its source and its run directory."""

    config_file: Path
    run_dir: Path
    source: Path

    def ledger(self) -> dict[str, Any]:
        """The ledger, parsed."""
        return json.loads((self.run_dir / "ledger.json").read_text())

    def stage(self, name: str) -> dict[str, Any]:
        """One stage's entry of the ledger."""
        return next(s for s in self.ledger()["stages"] if s["name"] == name)

    def parts(self, folder: str) -> pa.Table:
        """All rows of a segment's parts, in the order of their ids."""
        import pyarrow.parquet as pq

        files = sorted((self.run_dir / "stages" / folder / "rows").glob("part-*.parquet"))
        return pa.concat_tables(pq.read_table(f) for f in files).sort_by("row_id")

    def change(self, **keys: Any) -> None:
        """Merge top-level keys into the configuration file."""
        config = yaml.safe_load(self.config_file.read_text())
        for key, value in keys.items():
            old = config.get(key)
            config[key] = {**old, **value} if isinstance(old, dict) else value
        self.config_file.write_text(yaml.safe_dump(config))


def make_toy(folder: Path, texts: Sequence[str], pipeline: str = "toy_maps", **keys: Any) -> Toy:
    """Write a toy job's source and configuration.

    Args:
        folder: where to write.
        texts: the rows.
        pipeline: a script in ``tests/jobs``.
        keys: further keys of the configuration.
    """
    source = folder / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    prompts = folder / "prompts"
    prompts.mkdir(exist_ok=True)
    (prompts / "ask.yaml").write_text('user: "Say something about {{ text }}"\n')
    config: dict[str, Any] = {
        "name": "toy",
        "job": str(TESTS / "jobs" / f"{pipeline}.py"),
        "run_dir": str(folder / "run"),
        "unit_rows": 10,
        "source": {"path": str(source)},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config | keys))
    return Toy(path, folder / "run", source)
