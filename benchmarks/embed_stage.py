"""The embedding stage of prompt_retrieval against bare `SentenceTransformer.encode`; exact search.

    python benchmarks/embed_stage.py [--texts 2048] [--vectors 50000] [--rounds 3]

Both sides embed the same texts in turn, in the same process, on the same threads. The stage gets
them as the engine passes them: units of 512 rows as Arrow tables. The bare side gets all at once,
which sorts by length over all texts. The search goes through memory-mapped vectors; a million is
extrapolated from the time per vector, and marked so.
"""

import argparse
import os
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pyarrow as pa

from ray_pipeline.core.rows import with_envelope
from ray_pipeline.models import packaged
from ray_pipeline.models.vector_index import IndexIdentity, VectorIndex
from ray_pipeline.stage import Settings
from ray_pipeline.stages.retrieval.embed import EmbedForRetrieval

MODEL = "all-minilm-l6-v2"
UNIT = 512


def texts_of(number: int) -> list[str]:
    """Different texts of 5 to 60 words, made of a fixed vocabulary."""
    generator = np.random.default_rng(1)
    words = [
        "the",
        "a",
        "ship",
        "dragon",
        "night",
        "letter",
        "king",
        "robot",
        "storm",
        "village",
        "old",
        "lost",
        "never",
        "finds",
    ]
    return [
        f"{n} " + " ".join(generator.choice(words, generator.integers(5, 60)))
        for n in range(number)
    ]


def embedding(number: int, rounds: int) -> None:
    stage = EmbedForRetrieval()
    folder = packaged.resolve(MODEL)
    stage = stage.bound(stage.config_type(), Settings(models={MODEL: folder}))
    stage.load()
    bare = stage._embedders["minilm"]._loaded()
    texts = texts_of(number)
    units = []
    for first in range(0, number, UNIT):
        part = texts[first : first + UNIT]
        nothing = pa.nulls(len(part), pa.string())
        columns = {
            "source_name": pa.array(["queries"] * len(part)),
            "query": pa.array(part),
            "prompt": nothing,
            "context": nothing,
        }
        ids = [str(first + n) for n in range(len(part))]
        units.append(with_envelope(pa.table(columns), ids))
    bare.encode(texts[:64])  # warm-up
    rates = []
    for _ in range(rounds):
        start = time.perf_counter()
        bare.encode(texts, batch_size=64, show_progress_bar=False)
        of_bare = number / (time.perf_counter() - start)
        start = time.perf_counter()
        for unit in units:
            stage.apply(unit, Counter())
        of_stage = number / (time.perf_counter() - start)
        rates.append(of_stage / of_bare)
        print(f"bare {of_bare:,.0f} texts/s, stage {of_stage:,.0f}: {rates[-1]:.3f}", flush=True)
    print(f"median of {rounds}: {np.median(rates):.3f}")


def search(number: int) -> None:
    generator = np.random.default_rng(2)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "vectors.npy")
        mapped = np.lib.format.open_memmap(path, "w+", np.float32, (number, 384))
        for first in range(0, number, 10_000):
            block = generator.normal(size=(min(10_000, number - first), 384)).astype(np.float32)
            mapped[first : first + 10_000] = block / np.linalg.norm(block, axis=1, keepdims=True)
        mapped.flush()
        del mapped
        vectors = np.load(path, mmap_mode="r")
        queries = generator.normal(size=(64, 384)).astype(np.float32)
        identity = IndexIdentity("w", "p", None, "", "", 384, number, "c")
        index = VectorIndex(identity, vectors, None)
        index.search(queries, 10)
        start = time.perf_counter()
        index.search(queries, 10)
        spent = time.perf_counter() - start
        start = time.perf_counter()
        for first in range(0, number, 65_536):
            queries @ vectors[first : first + 65_536].T
        product = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"search: {number:,} vectors, 64 queries: {spent:.3f} s; matrix products alone "
            f"{product:.3f} s; {64 / spent * number / 1e6:,.0f} queries/s at a million vectors "
            f"(extrapolated); peak memory of the process {peak:,.0f} MiB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=2048)
    parser.add_argument("--vectors", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    search(arguments.vectors)
    embedding(arguments.texts, arguments.rounds)


if __name__ == "__main__":
    main()
