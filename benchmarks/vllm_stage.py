"""An ask stage on vLLM against a bare `AsyncLLM` on the same prompts, in output tokens a second.

    python benchmarks/vllm_stage.py [--prompts 512] [--rounds 3]

Each side starts an engine of its own, which is not counted, and asks once before it is timed. The
stage's time runs from its first request to the commit of its last unit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _runs import last_commit, records, run_asking

from ray_pipeline.llm.config import LlmConfig
from ray_pipeline.llm.engines.vllm import VllmEngine
from ray_pipeline.llm.types import Request, Sampling
from ray_pipeline.models import packaged as models

MODEL = "smollm2-135m-instruct"
LLM: dict[str, Any] = {
    "engine": "vllm",
    "model": MODEL,
    "max_tokens": 64,
    "temperature": 0.0,
    "max_model_len": 1024,
    "max_num_seqs": 64,
}
TEMPLATE = "Rewrite in a formal tone: {{ text }}"


def texts(number: int) -> list[str]:
    """One short question for each prompt."""
    return [
        f"why do some birds of flock {i} fly south, and what do they eat?" for i in range(number)
    ]


async def bare(number: int) -> float:
    """Output tokens a second of vLLM's own engine, started as the stage starts it."""
    host = VllmEngine(LlmConfig(**LLM), models.resolve(MODEL))
    await host.ready()
    engine, tokenizer = host._engine, host._tokenizer

    from vllm import SamplingParams, TokensPrompt
    from vllm.sampling_params import RequestOutputKind

    parameters = SamplingParams(
        max_tokens=64, temperature=0.0, output_kind=RequestOutputKind.FINAL_ONLY
    )

    async def one(name: str, text: str) -> int:
        message = {"role": "user", "content": TEMPLATE.replace("{{ text }}", text)}
        ids = tokenizer.apply_chat_template(
            [message], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        tokens = 0
        async for out in engine.generate(TokensPrompt(prompt_token_ids=ids), parameters, name):
            tokens = len(out.outputs[0].token_ids)
        return tokens

    await host.generate(
        Request("warm", MODEL, "", ({"role": "user", "content": "Hi"},), Sampling(8))
    )
    began = time.perf_counter()
    counts = await asyncio.gather(*(one(str(i), text) for i, text in enumerate(texts(number))))
    speed = sum(counts) / (time.perf_counter() - began)
    engine.shutdown()
    return speed


def stage(number: int, folder: Path) -> float:
    """Output tokens a second of the stage."""
    run = run_asking(folder, texts(number), LLM, TEMPLATE, unit_rows=64)
    found = records(run)
    first = min(record["at"] - record["seconds"] for record in found)
    return sum(record["completion_tokens"] for record in found) / (last_commit(run) - first)


def main() -> None:
    """Alternate both sides and print the ratio of their medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bare", action="store_true", help="only the bare engine, once")
    options = parser.parse_args()
    if options.bare:
        print(asyncio.run(bare(options.prompts)))
        return
    speeds: dict[str, list[float]] = {"bare": [], "stage": []}
    for number in range(options.rounds):
        command = [sys.executable, __file__, "--bare", "--prompts", str(options.prompts)]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        speeds["bare"].append(float(out.split()[-1]))
        with tempfile.TemporaryDirectory() as folder:
            speeds["stage"].append(stage(options.prompts, Path(folder) / str(number)))
    medians = {side: statistics.median(values) for side, values in speeds.items()}
    print(
        json.dumps(
            {
                "output_tokens_a_second": {k: [round(v) for v in vs] for k, vs in speeds.items()},
                "ratio": round(medians["stage"] / medians["bare"], 3),
            }
        )
    )


if __name__ == "__main__":
    main()
