"""Near duplicates: documents a second, recall and precision, against rensa and datasketch alone.

    python benchmarks/near_duplicates.py --rows DATA.jsonl [DATA.csv ...] [--documents 200000]

The documents are real rows and seeded edits of them: light ones, around the threshold and beyond
it, and heavy ones, which must not be found. The truth is exact: every pair of documents with
Jaccard similarity 0.8 of their word 5-grams, found by prefix filtering (Chaudhuri et al., 2006) and
counted on Python sets, not by MinHash.

Ours is a run of the command on a cluster of its own; its time is that of the decision (reading the
rows' parts, to decisions on storage), and of the whole run with Ray's start, source and exports
besides. The libraries get their texts from memory, in one process, as their users run them.
Of a library's similar pairs (its own estimate says so), the later document is dropped.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import random
import re
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from _runs import BENCHMARKS, run_config

THRESHOLD = 0.8
NGRAM = 5
WORD = re.compile(r"[^\W_]+")
Pair = tuple[int, int]


def real_rows(files: Sequence[Path]) -> list[str]:
    """Texts of at least 20 words."""
    texts = []
    for file in files:
        with file.open(newline="", encoding="utf-8", errors="replace") as lines:
            rows: Any = csv.DictReader(lines) if file.suffix == ".csv" else map(json.loads, lines)
            texts += [" ".join(str(value) for value in row.values()) for row in rows]
    return [text for text in texts if 20 <= len(text.split()) <= 400]


def corpus(base: Sequence[str], documents: int, seed: int) -> list[str]:
    """Real rows and edits of them; where there are too few rows, halves of two are joined."""
    rng = random.Random(seed)
    vocabulary = sorted({word for text in base[:2_000] for word in text.split()})
    made = []
    texts = list(base)
    rng.shuffle(texts)
    while len(made) < documents:
        if texts:
            text = texts.pop()
        else:
            one, other = rng.choice(base).split(), rng.choice(base).split()
            text = " ".join(one[: len(one) // 2] + other[len(other) // 2 :])
        made.append(text)
        if rng.random() < 0.35:
            made += [edited(text, rng, vocabulary) for _ in range(rng.randint(1, 3))]
    made = made[:documents]
    rng.shuffle(made)
    return made


def edited(text: str, rng: random.Random, vocabulary: Sequence[str]) -> str:
    """From a changed word or two to every fifth word changed, moved or left out."""
    words = text.split()
    for _ in range(max(1, round(len(words) * rng.choice([0.005, 0.01, 0.02, 0.05, 0.2])))):
        at = rng.randrange(len(words))
        kind = rng.random()
        if kind < 0.5:
            words[at] = rng.choice(vocabulary)
        elif kind < 0.75:
            words.insert(at, rng.choice(vocabulary))
        elif len(words) > 10:
            del words[at]
    return " ".join(words)


def shingles(text: str) -> frozenset[str]:
    words = WORD.findall(text.lower())
    return frozenset(" ".join(words[i : i + NGRAM]) for i in range(max(1, len(words) - NGRAM + 1)))


def truth(sets: Sequence[frozenset[str]]) -> set[Pair]:
    """All pairs at or above the threshold.

    Two sets of similarity t share one of the first |A| - ceil(t |A|) + 1 elements of A, and of as
    many of B, in any common order of elements; rare ones first, so that few pairs meet.
    """
    frequency = Counter(itertools.chain.from_iterable(sets))
    places: dict[str, list[int]] = defaultdict(list)
    found, seen = set(), set()
    for number, items in enumerate(sets):
        needed = -int(-THRESHOLD * len(items) // 1)
        ordered = sorted(items, key=lambda item: (frequency[item], item))
        for item in ordered[: len(items) - needed + 1]:
            for other in places[item]:
                if (other, number) not in seen:
                    seen.add((other, number))
                    if similarity(items, sets[other]) >= THRESHOLD:
                        found.add((other, number))
            places[item].append(number)
    return found


def similarity(one: frozenset[str], other: frozenset[str]) -> float:
    common = len(one & other)
    return common / (len(one) + len(other) - common)


def ours(texts: Sequence[str], folder: Path) -> tuple[float, float, dict[int, int]]:
    """Seconds of the decision, of the run, and who was dropped in favour of whom."""
    folder.mkdir()
    table = pa.table({"text": texts, "number": pa.array(range(len(texts)))})
    pq.write_table(table, folder / "texts.parquet", row_group_size=10_000)
    config = {
        "name": "near-duplicates",
        "job": str(BENCHMARKS / "near_duplicates_job.py"),
        "run_dir": str(folder / "run"),
        "seed": 7,
        "unit_rows": 2_500,
        "source": {"path": str(folder / "texts.parquet")},
        "stages": {"near-duplicates": {"ngram": NGRAM, "threshold": THRESHOLD, "must_equal": []}},
        "export": {"formats": []},
    }
    began = time.perf_counter()
    run_dir = run_config(folder, config)
    whole = time.perf_counter() - began
    rows = pa.concat_tables(
        pq.read_table(part, columns=["row_id", "number", "duplicate_of"])
        for part in run_dir.glob("stages/01-near-duplicates/rows/*.parquet")
    ).to_pylist()
    number = {row["row_id"]: row["number"] for row in rows}
    dropped = {r["number"]: number[r["duplicate_of"]] for r in rows if r["duplicate_of"]}
    phases = json.loads((run_dir / "ledger.json").read_text())["phases"]
    return phases["decide"], whole, dropped


def with_rensa(texts: Sequence[str]) -> set[Pair]:
    from rensa import RMinHash, RMinHashLSH

    index = RMinHashLSH(threshold=THRESHOLD, num_perm=117, num_bands=9)
    hashes, pairs = [], set()
    for number, text in enumerate(texts):
        words = WORD.findall(text.lower())
        minhash = RMinHash(num_perm=117, seed=42)
        runs = range(max(1, len(words) - NGRAM + 1))
        minhash.update([" ".join(words[i : i + NGRAM]) for i in runs])
        for other in index.query(minhash):
            if minhash.jaccard(hashes[other]) >= THRESHOLD:
                pairs.add((other, number))
        index.insert(number, minhash)
        hashes.append(minhash)
    return pairs


def with_datasketch(texts: Sequence[str]) -> set[Pair]:
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(num_perm=117, params=(9, 13))
    hashes, pairs = [], set()
    for number, text in enumerate(texts):
        minhash = MinHash(num_perm=117)
        minhash.update_batch([item.encode() for item in shingles(text)])
        for other in index.query(minhash):
            if minhash.jaccard(hashes[other]) >= THRESHOLD:
                pairs.add((other, number))
        index.insert(number, minhash)
        hashes.append(minhash)
    return pairs


def greedy(pairs: set[Pair]) -> dict[int, int]:
    """Who goes in favour of whom: of each pair the later one, unless the earlier one is gone."""
    dropped: dict[int, int] = {}
    for one, other in sorted(pairs):
        if one not in dropped and other not in dropped:
            dropped[other] = one
    return dropped


def decided(dropped: dict[int, int], true: set[Pair]) -> dict[str, float]:
    """A document is rightly dropped in favour of one that it is similar to; a true pair is missed
    when both of its documents stay."""
    right = sum((min(pair), max(pair)) in true for pair in dropped.items())
    missed = sum(one not in dropped and other not in dropped for one, other in true)
    return {
        "dropped": len(dropped),
        "recall": round(1 - missed / len(true), 5),
        "precision": round(right / max(1, len(dropped)), 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=Path, nargs="+", required=True, help="JSONL or CSV of texts")
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--datasketch", action="store_true", help="datasketch besides rensa")
    options = parser.parse_args()
    texts = corpus(real_rows(options.rows), options.documents, options.seed)
    true = truth([shingles(text) for text in texts])
    words = statistics.median(len(text.split()) for text in texts)
    print(f"{len(texts)} documents, median {words:g} words, {len(true)} true pairs", flush=True)
    libraries = {"rensa": with_rensa} | (
        {"datasketch": with_datasketch} if options.datasketch else {}
    )
    rates: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(options.rounds):
            seconds, whole, dropped = ours(texts, Path(scratch) / str(turn))
            rates["ours"].append(len(texts) / seconds)
            rates["ours, whole run"].append(len(texts) / whole)
            if turn == 0:
                print("ours", decided(dropped, true), flush=True)
            for name, library in libraries.items():
                began = time.perf_counter()
                pairs = library(texts)
                rates[name].append(len(texts) / (time.perf_counter() - began))
                if turn == 0:
                    print(name, decided(greedy(pairs), true), flush=True)
            print({name: round(found[-1]) for name, found in rates.items()}, flush=True)
    medians = {name: round(statistics.median(found)) for name, found in rates.items()}
    print("documents a second, medians:", json.dumps(medians))
    print("ours over rensa:", round(medians["ours"] / medians["rensa"], 2))


if __name__ == "__main__":
    main()
