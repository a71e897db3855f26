"""A large corpus of instructions and responses, made by recombining real rows.

    python benchmarks/quality_corpus.py --rows FILE.jsonl [FILE.jsonl ...] --number 1000000 --out F

A row takes the instruction of one real row, or its sentences with one of another row's among them,
and the response of the same row, of which some sentences are left out, repeated, moved, or taken
from another row; now and then a number or a word is changed. So texts are distinct, but of the
length, the words and the marks of real ones. The same seed makes the same corpus, however large:
its first rows are a smaller one.

Writes Parquet with ``instruction``, ``response`` and ``source`` (the file's name), a row group at a
time.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

GROUP = 10_000
_SENTENCE = re.compile(r"(?<=[.!?\n])\s+")
_NUMBER = re.compile(r"\d+")

Row = tuple[str, str, str]


def real_rows(files: Sequence[Path]) -> list[Row]:
    """Instruction, response and source of every row."""
    rows = []
    for file in files:
        for line in file.read_bytes().splitlines():
            row = json.loads(line)
            rows.append((row["instruction"], row["response"], file.stem))
    return rows


def recombined(rows: Sequence[Row], number: int, seed: int) -> Iterator[Row]:
    """So many new rows."""
    rng = random.Random(seed)
    for _ in range(number):
        instruction, response, source = rng.choice(rows)
        other = rng.choice(rows)
        if rng.random() < 0.5:
            instruction = _mixed(instruction, other[0], rng)
        yield _changed(instruction, rng), _changed(_mixed(response, other[1], rng), rng), source


def _mixed(text: str, other: str, rng: random.Random) -> str:
    """The text with a sentence of another one, and perhaps without one of its own."""
    parts = _SENTENCE.split(text)
    ends = _SENTENCE.findall(text) or [" "]
    if len(parts) > 2 and rng.random() < 0.5:
        del parts[rng.randrange(len(parts))]
    parts.insert(rng.randint(0, len(parts)), rng.choice(_SENTENCE.split(other)))
    return "".join(part + rng.choice(ends) for part in parts).rstrip()


def _changed(text: str, rng: random.Random) -> str:
    """The text with other numbers, or two words that changed places."""
    if rng.random() < 0.5:
        return _NUMBER.sub(lambda found: str(rng.randrange(10 ** len(found[0][:9]))), text)
    words = text.split(" ")
    one, two = rng.randrange(len(words)), rng.randrange(len(words))
    words[one], words[two] = words[two], words[one]
    return " ".join(words)


def write(files: Sequence[Path], number: int, out: Path, seed: int = 7) -> None:
    """Write a corpus, holding one row group in memory."""
    schema = pa.schema({name: pa.string() for name in ("instruction", "response", "source")})
    rows = recombined(real_rows(files), number, seed)
    with pq.ParquetWriter(out, schema) as writer:
        for begin in range(0, number, GROUP):
            group = [next(rows) for _ in range(min(GROUP, number - begin))]
            columns = [list(column) for column in zip(*group, strict=True)]
            writer.write_table(pa.table(columns, schema=schema))


def main() -> None:
    """Write what the options say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, nargs="+", required=True)
    parser.add_argument("--number", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    write(options.rows, options.number, options.out, options.seed)


if __name__ == "__main__":
    main()
