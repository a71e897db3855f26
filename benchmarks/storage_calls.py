"""How often a run calls its storage: a first run, and a second that reuses everything.

    python benchmarks/storage_calls.py [--rows 120] [--unit-rows 10]

The job `qa_distillation` to its near-duplicates, with a local mock server for a model: maps, a
local model, decisions and questions. On a local folder the calls of `Storage` and the reads of the
files that it opens are counted, in every process; on S3 the requests that reach a mock server. The
journals of responses append to local files without `Storage`, and are not counted there.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))
from support.mock_openai import MockServer

#: Imported by every Python process that finds it on its path, before anything else.
_HOOK = """
import importlib.abc, importlib.util, os, sys

class Finder(importlib.abc.MetaPathFinder):
    names = ("ray_pipeline.core.storage", "ray_pipeline.storage")

    def find_spec(self, name, path, target=None):
        if name not in self.names:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        def exec_module(module):
            execute(module)
            instrument(module.Storage)
        spec.loader.exec_module = exec_module
        return spec

def instrument(storage):
    import pyarrow
    log = os.open(os.environ["CALLS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    def note(kind, path):
        os.write(log, f"{kind} {path}\\n".encode())
    class File:
        def __init__(self, file, path):
            self.file, self.path, self.closed = file, path, False
        def read(self, *size):
            note("read", self.path)
            return self.file.read(*size)
        def read_buffer(self, *size):
            note("read", self.path)
            return self.file.read_buffer(*size)
        def __getattr__(self, name):
            return getattr(self.file, name)
        def close(self):
            self.closed = True
            self.file.close()
    def counted(name, kind):
        method = getattr(storage, name)
        def call(self, path="", *args, **keys):
            note(kind, path)
            return method(self, path, *args, **keys)
        setattr(storage, name, call)
    open_file = storage.open
    def open_counted(self, path):
        note("open", path)
        return pyarrow.PythonFile(File(open_file(self, path), path), mode="r")
    storage.open = open_counted
    for name, kind in [("read_bytes", "read whole"), ("write_bytes", "write"), ("writer", "write"),
                       ("list", "list"), ("exists", "info"), ("delete", "delete"),
                       ("delete_folder", "delete")]:
        counted(name, kind)

if "CALLS" in os.environ:
    sys.meta_path.insert(0, Finder())
"""


class CountingS3:
    """A mock S3 server that counts requests by method."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.requests: Counter[str] = Counter()
        self._application = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._count, threaded=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def _count(self, environ: dict[str, Any], start_response: Any) -> Any:
        method, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
        is_list = method == "GET" and "prefix=" in query
        self.requests["LIST" if is_list else method] += 1
        return self._application(environ, start_response)


def configuration(folder: Path, rows: int, unit_rows: int, base_url: str) -> Path:
    """A configuration of the job on repeated samples, all of them different."""
    with (REPOSITORY / "samples/qa.csv").open(newline="") as file:
        samples = list(csv.DictReader(file))
    lines = [
        {"question": sample["Question"], "answer": sample["Answer"]}
        for sample in (samples * -(-rows // len(samples)))[:rows]
    ]
    source = folder / "rows.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    asking = ["fill-in-blank", "multiple-choice", "outliers"]
    asking += ["rephrase-first", "rephrase-second"]
    asking += ["augment-formal", "augment-casual", "augment-general"]
    keys: dict[str, Any] = {
        "name": "qa-distillation",
        "run_dir": str(folder / "run"),
        "unit_rows": unit_rows,
        "source": {"path": str(source)},
        "llms": {
            "mock": {
                "engine": "openai",
                "model": "mock",
                "base_url": base_url,
                "api_keys_env": ["KEY"],
            }
        },
        "budget": {"max_failed_rows": 0.9},
        "stages": {
            **{stage: {"llm": "mock"} for stage in asking},
            **{s: {"llm": "mock", "if_unusable": "keep"} for s in asking[:3]},
            "tokenise": {"model": "smollm2-135m-instruct"},
            "train-teacher": {"model": "smollm2-135m-instruct"},
        },
    }
    path = folder / "config.json"
    path.write_text(json.dumps(keys))
    return path


def run(config: Path, run_dir: str, environment: dict[str, str]) -> None:
    """The command, to the last stage that decides on duplicates."""
    command = [sys.executable, "-m", os.environ.get("COMMAND", "ray_pipeline.cli.app"), "run"]
    command += [str(config), "--run-dir", run_dir]
    done = subprocess.run(
        [*command, "--until", "near-duplicates"],
        env={**os.environ, "RAY_ADDRESS": "local", "KEY": "key", "HF_HUB_OFFLINE": "1"}
        | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def show(title: str, counts: Counter[str]) -> None:
    """One line: every kind of call, and all of them."""
    kinds = ", ".join(f"{kind} {counts[kind]}" for kind in sorted(counts))
    print(f"{title}: {kinds}; {counts.total()} in all", flush=True)


def local(config: Path, folder: Path) -> None:
    """Calls on a local folder."""
    (folder / "sitecustomize.py").write_text(_HOOK)
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    for title in ("first run", "second run"):
        calls = folder / "calls"
        calls.write_text("")
        run(
            config,
            str(folder / "run"),
            {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "CALLS": str(calls)},
        )
        lines = [line.rpartition(" ") for line in calls.read_text().splitlines()]
        show(f"local, {title}", Counter(kind for kind, _, _ in lines))
        show("  of parts", Counter(kind for kind, _, path in lines if "/rows/" in path))


def s3(config: Path) -> None:
    """Requests on S3."""
    server = CountingS3()
    os.environ |= server.environment
    import boto3

    boto3.client("s3").create_bucket(Bucket="bucket")
    for title in ("first run", "second run"):
        server.requests.clear()
        run(config, "s3://bucket/run", server.environment)
        show(f"S3, {title}", server.requests)


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=120)
    parser.add_argument("--unit-rows", type=int, default=10)
    options = parser.parse_args()
    with MockServer() as server, tempfile.TemporaryDirectory() as name:
        config = configuration(Path(name), options.rows, options.unit_rows, server.base_url)
        local(config, Path(name))
        s3(config)


if __name__ == "__main__":
    main()
