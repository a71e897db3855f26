"""An ask stage on an API against a bare aiohttp loop that only fires the same requests.

    python benchmarks/api_stage.py [--requests 20000] [--rounds 3]

Both talk to the mock server of the tests on loopback (0.2 s to each answer) and share two cores
with it. The stage's time runs from the first request that arrives to the commit of the last unit:
rendering, keys, the journal, parsing and Parquet are in it, the start of Ray is not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent
sys.path.append(str(BENCHMARKS.parent / "tests"))

from _bare_aiohttp import measure
from _runs import last_commit, run_asking
from support.mock_openai import MockServer

from ray_pipeline.llm.config import LlmConfig
from ray_pipeline.llm.engines.requests import Dialect, request_body
from ray_pipeline.llm.types import Request

LATENCY = 0.2
TEMPLATE = "Rewrite this question in a formal tone: {{ text }}"


def texts(number: int) -> list[str]:
    """One short question for each request."""
    return [f"why do some birds of flock {i} fly south in winter?" for i in range(number)]


def bare(number: int, concurrency: int) -> float:
    """Wall seconds of the bare loop."""
    with MockServer(latency=LATENCY, log="") as server:
        config = LlmConfig(model="mock", engine="openai", base_url=server.base_url, api_keys_env=[])
        bodies = [
            request_body(
                config,
                Request(
                    "ask", "mock", "", ({"role": "user", "content": TEMPLATE.split("{")[0] + t},)
                ),
                Dialect(),
            )
            for t in texts(number)
        ]
        return measure(f"{server.base_url}/chat/completions", bodies, concurrency)


def stage(number: int, concurrency: int, folder: Path) -> float:
    """Wall seconds of the stage."""
    llm = {"engine": "openai", "model": "mock", "api_keys_env": [], "concurrency": concurrency}
    with MockServer(latency=LATENCY) as server:
        run = run_asking(folder, texts(number), {**llm, "base_url": server.base_url}, TEMPLATE)
        first = next(event["t"] for event in server.events() if event["event"] == "arrival")
        assert server.stats()["completed"] == number
    return last_commit(run) - first


def main() -> None:
    """Alternate both sides and print the ratio of their medians for each concurrency."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, action="append")
    options = parser.parse_args()
    for concurrency in options.concurrency or [64, 256]:
        seconds: dict[str, list[float]] = {"bare": [], "stage": []}
        for number in range(options.rounds):
            with tempfile.TemporaryDirectory() as folder:
                seconds["bare"].append(bare(options.requests, concurrency))
                path = Path(folder) / str(number)
                seconds["stage"].append(stage(options.requests, concurrency, path))
        medians = {side: statistics.median(values) for side, values in seconds.items()}
        print(
            json.dumps(
                {
                    "concurrency": concurrency,
                    "ideal": options.requests * LATENCY / concurrency,
                    "seconds": {k: [round(v, 2) for v in vs] for k, vs in seconds.items()},
                    "ratio": round(medians["stage"] / medians["bare"], 3),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
