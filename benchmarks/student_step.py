"""A student's step: plain, with a cached teacher, and with the teacher beside it.

    python benchmarks/student_step.py --rows FILE.jsonl [--steps 6] [--rounds 3] [--bfloat16]

A student of every third layer of SmolLM2-135M takes the same steps (real rows, answers only) three
ways, in turn within each round: cross-entropy alone, which is the bound; with the teacher's stored
top-64 log-probabilities; and with the teacher run on every micro-batch. Prints tokens a second of
each, ratios by round with their medians, and the bytes that the cache takes for a token on storage.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from _training_rows import MODEL, real_rows, seconds, tokenizer

from ray_pipeline.models import packaged as models
from ray_pipeline.models.tokenizer import tokenizer_hash, vocabulary_size
from ray_pipeline.train.batches import BatchConfig, BatchPlan, TokenRows
from ray_pipeline.train.forward import OnlineTeacher
from ray_pipeline.train.loop import Loop, LoopConfig
from ray_pipeline.train.losses import Objective
from ray_pipeline.train.replica import Whole
from ray_pipeline.train.student import StudentConfig, load, make_student
from ray_pipeline.train.teacher_cache import CachedTeacher, CacheInfo, CacheWriter

SEED_OBJECTIVE = Objective(0.4664, 0.2081, 0.7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=Path, required=True, help="JSONL: instruction, response")
    parser.add_argument("--step-rows", type=int, default=32)
    parser.add_argument("--steps", type=int, default=6, help="measured steps a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--bfloat16", action="store_true", help="forward passes in bfloat16")
    arguments = parser.parse_args()

    rows = real_rows(arguments.rows, arguments.step_rows * arguments.steps, 512)
    words, teacher = tokenizer(), load(models.resolve(MODEL))
    vocabulary = vocabulary_size(words)
    info = CacheInfo(arguments.k, vocabulary, tokenizer_hash(words), "benchmark")
    cached = _cached(teacher, rows, info)
    student = make_student(StudentConfig(every=3), teacher, words)
    online = OnlineTeacher(teacher, vocabulary)
    sides: dict[str, tuple[Objective, Any]] = {
        "plain": (Objective(), None),
        "cached": (SEED_OBJECTIVE, cached),
        "online": (SEED_OBJECTIVE, online),
    }
    plan = BatchPlan(rows, BatchConfig(step_rows=arguments.step_rows, batch_tokens=4096))
    precision = "bfloat16" if arguments.bfloat16 else "float32"
    config = LoopConfig(precision=precision, learning_rate=1e-6)
    loops = {
        name: Loop(Whole(student), plan, objective, config, teacher=signal)
        for name, (objective, signal) in sides.items()
    }
    _measure(loops, rows, arguments.rounds)


def _cached(teacher: Any, rows: TokenRows, info: CacheInfo) -> CachedTeacher:
    write = CacheWriter(teacher, info)
    spent = 0.0
    tables = []

    def make() -> None:
        tables.append(write(rows, BatchPlan(rows, BatchConfig(batch_tokens=4096)).in_order()))

    spent = seconds(make)
    answers = int(rows.answer_tokens.sum())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cache.parquet")
        # As a part of a run is written.
        pq.write_table(tables[0], path, compression="zstd")
        size = path.stat().st_size
    print(
        f"cache: {rows.lengths.sum() / spent:,.0f} tokens/s, {size / answers:.0f} bytes an answer "
        f"token on storage (k = {info.k}), {answers} answer tokens"
    )
    return CachedTeacher(tables[0], rows, info)


def _measure(loops: dict[str, Loop], rows: TokenRows, rounds: int) -> None:
    """Take every step on every side before the next one: what else the machine does hits all."""
    for loop in loops.values():  # allocations, and the first calls of every kernel
        loop._step()
    tokens, names = int(rows.lengths.sum()), list(loops)
    ratios: dict[str, list[float]] = {f"cached / {name}": [] for name in names if name != "cached"}
    for number in range(rounds):
        spent = dict.fromkeys(names, 0.0)
        for step in range(loops["plain"].plan.steps(0)):
            turn = (number + step) % len(names)
            for name in names[turn:] + names[:turn]:
                progress = loops[name].progress
                progress.epoch, progress.step_of_epoch = 0, step
                spent[name] += seconds(loops[name]._step)
        for pair in ratios:
            ratios[pair].append(spent[pair.removeprefix("cached / ")] / spent["cached"])
        listed = ", ".join(f"{name} {tokens / spent[name]:,.0f}" for name in names)
        print(f"round {number + 1}: tokens/s {listed}", flush=True)
    for pair, values in ratios.items():
        print(f"{pair}: {statistics.median(values):.3f} ({', '.join(f'{v:.3f}' for v in values)})")


if __name__ == "__main__":
    main()
