"""The teacher's pass by transformers and by vLLM: tokens a second of the same rows.

    python benchmarks/teacher_pass.py --rows FILE.jsonl [--number 96] [--rounds 3]

Both give the 64 most likely tokens at every answer token of real rows, in bfloat16.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from _training_rows import MODEL, real_rows, seconds, tokenizer

from ray_pipeline.models import packaged as models
from ray_pipeline.models.tokenizer import tokenizer_hash, vocabulary_size
from ray_pipeline.train.batches import BatchConfig, BatchPlan
from ray_pipeline.train.student import load
from ray_pipeline.train.teacher_cache import CacheInfo, CacheWriter
from ray_pipeline.train.vllm_cache import VllmCacheWriter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=Path, required=True, help="JSONL: instruction, response")
    parser.add_argument("--number", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    rows, words = real_rows(arguments.rows, arguments.number, 512), tokenizer()
    folder = models.resolve(MODEL)
    info = CacheInfo(64, vocabulary_size(words), tokenizer_hash(words), "benchmark")
    plan = BatchPlan(rows, BatchConfig(batch_tokens=2048))
    plain = CacheWriter(load(folder), info, "bfloat16")
    theirs = VllmCacheWriter(folder, info, "bfloat16", {"max_model_len": 1024})
    tokens = int(rows.lengths.sum())
    theirs(rows)  # the first call of every kernel
    ratios = []
    for number in range(arguments.rounds):
        rates = {
            "transformers": tokens / seconds(lambda: plain(rows, plan.in_order())),
            "vllm": tokens / seconds(lambda: theirs(rows)),
        }
        ratios.append(rates["vllm"] / rates["transformers"])
        listed = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())
        print(f"round {number + 1}: tokens/s {listed}", flush=True)
    print(f"vllm / transformers: {statistics.median(ratios):.3f}")
    theirs.close()


if __name__ == "__main__":
    main()
