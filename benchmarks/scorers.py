"""Further scorers on real rows: what they cost, and how they agree.

    python benchmarks/scorers.py --rows DATA.jsonl --number 200

Scores rows of a JSONL file (instruction, response) by IFD with SmolLM2-135M and by novelty, in this
process, without Ray; then Spearman's rank correlations, with the length of the answer among them,
since a score that goes with it may measure little else. Rows a second are of wall time, and of CPU
time, which other work on the machine does not change as much.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ray_pipeline.core.rows import with_envelope
from ray_pipeline.models.packaged import resolve
from ray_pipeline.report.sections.scorers import spearman
from ray_pipeline.stage import ModelStage, Settings
from ray_pipeline.stages.embed import Embed, vectors_of
from ray_pipeline.stages.scoring.ifd import ScoreIfd
from ray_pipeline.stages.scoring.novelty import novelty

MODEL = "smollm2-135m-instruct"
#: Rows that novelty is timed on, against a sample of this size.
MANY, SAMPLE, NEIGHBOURS = 20_000, 4_096, 10


def drawn(file: Path, number: int) -> pa.Table:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    chosen = np.random.default_rng(0).permutation(len(rows))[:number]
    columns = {
        name: pa.array([rows[i][name] for i in chosen], pa.string())
        for name in ("instruction", "response")
    }
    return with_envelope(pa.table(columns), [f"row{i}" for i in chosen])


def timed(what: str, stage: ModelStage, rows: pa.Table) -> pa.Table:
    stage.load()
    stage.apply(rows.slice(0, 4), Counter())  # the first call is slower
    wall, cpu = time.perf_counter(), time.process_time()
    made = stage.apply(rows, Counter())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"{what}: {rows.num_rows / wall:.2f} rows a second, {rows.num_rows / cpu:.2f} a CPU second"
    )
    return made


def time_novelty(dimensions: int) -> None:
    vectors = np.random.default_rng(1).normal(size=(MANY, dimensions))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    began = time.perf_counter()
    for start in range(0, MANY, 2_048):
        block = vectors[start : start + 2_048]
        novelty(block, vectors[:SAMPLE], np.zeros((len(block), SAMPLE), bool), NEIGHBOURS)
    rate = MANY / (time.perf_counter() - began)
    print(f"novelty, from embeddings: {rate:,.0f} rows a second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--number", type=int, default=200)
    arguments = parser.parse_args()
    rows = drawn(arguments.rows, arguments.number)
    models = Settings(models={MODEL: resolve(MODEL)}, embedder=resolve("all-minilm-l6-v2"))
    scores: dict[str, Any] = {}
    for bfloat16 in (False, True):
        config = ScoreIfd.Config(model=MODEL, max_tokens=256, bfloat16=bfloat16)
        made = timed(f"ifd, bfloat16 {bfloat16}", ScoreIfd().bound(config, models), rows)
        found = made["ifd"].to_numpy()
        scores.setdefault("ifd", found)
    moved = np.nanmax(np.abs(found - scores["ifd"]))
    print(f"bfloat16 moves a score by up to {moved:.4f}")
    embedded = timed(
        "embedding",
        Embed("instruction", "response").bound(settings=models),
        rows,
    )
    vectors = vectors_of(embedded["embedding"]).astype(np.float64)
    scores["novelty"] = novelty(vectors, vectors, np.eye(len(vectors), dtype=bool), NEIGHBOURS)
    time_novelty(vectors.shape[1])
    answers = rows["response"].to_pylist()
    scores["answer words"] = np.array([len(answer.split()) for answer in answers], float)
    for one, other in combinations(scores, 2):
        both = np.isfinite(scores[one]) & np.isfinite(scores[other])
        value = spearman(scores[one][both], scores[other][both])
        print(f"{one} and {other}: {value:.2f} over {both.sum()} rows")


if __name__ == "__main__":
    main()
