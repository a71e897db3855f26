"""Texts as they are compared: normalised, and hashed to keys that are cheap to group by."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from ray_pipeline.stages.text.unicode import normalise

# What writers add or leave out without meaning anything by it. Not "+", "#", "%", "$" or "-": "C"
# and "C++", or 5 and -5, are different answers.
_MEANINGLESS = str.maketrans(dict.fromkeys(".,;:!?'\"()[]{}…“”‘’«»`´", " "))
# The character is matched before its context: three times as fast as the reverse.
_IN_A_WORD = re.compile(r"['’](?<=\w.)(?=\w)")
_IN_A_NUMBER = re.compile(r"[.,](?<=\d.)(?=\d)")


def normalised(text: str | None) -> str:
    """The text in one case, without punctuation, with single spaces; null counts as empty."""
    folded = normalise("NFKC", text or "").casefold()
    # Inside a word an apostrophe stands for nothing ("what's", "whats"), elsewhere for a space;
    # and the point of a number is part of it.
    folded = _IN_A_WORD.sub("", folded)
    folded = _IN_A_NUMBER.sub("\0", folded)
    return " ".join(folded.translate(_MEANINGLESS).split()).replace("\0", ".")


def text_hash(texts: Iterable[str]) -> int:
    """64-bit hash of some texts in order (XXH3)."""
    return xxhash.xxh3_64_intdigest("\x1f".join(texts).encode("utf-8", "surrogatepass"))


def pair_keys(columns: Sequence[Sequence[str]], seed: int) -> tuple[pa.Array, pa.Array]:
    """A 128-bit keyed hash (BLAKE2b) of each row of text columns, as two uint64 arrays.

    128 bits, because rows with equal keys count as equal: at a billion rows 64 bits would make
    rows equal that are not with a chance of 3%. A cryptographic hash, because whoever writes a
    source could make other texts with the key of a row, which would then be dropped.

    Args:
        columns: the texts; none has the separator U+001F.
        seed: the run's; the key of the hash.
    """
    key = str(seed).encode()[:64]
    digests = b"".join(
        hashlib.blake2b(
            "\x1f".join(row).encode("utf-8", "surrogatepass"), digest_size=16, key=key
        ).digest()
        for row in zip(*columns, strict=True)
    )
    halves = np.frombuffer(digests, dtype=">u8").astype(np.uint64).reshape(-1, 2)
    return pa.array(halves[:, 0]), pa.array(halves[:, 1])


def ranks(columns: Sequence[Sequence[str | None]], row_ids: Sequence[str]) -> pa.Array:
    """Rank equal rows (uint64): the row with the smallest rank is the best one.

    The longest text first, white space aside, since it says most; then the tidiest; then a hash of
    content and row id, which favours nobody and depends on nothing else.
    """
    lengths, untidy, hashes = [], [], []
    for row, row_id in zip(zip(*columns, strict=True), row_ids, strict=True):
        texts = [text or "" for text in row]
        lengths.append(sum(len(word) for text in texts for word in text.split()))
        untidy.append(sum(map(_untidiness, texts)))
        hashes.append(text_hash([*texts, row_id]))
    # From the highest bit down: 16 for the length, 4 for tidiness, 44 for the hash.
    short = np.uint64(0xFFFF) - np.minimum(np.array(lengths, dtype=np.uint64), np.uint64(0xFFFF))
    careless = np.minimum(np.array(untidy, dtype=np.uint64), np.uint64(0xF))
    tie = np.array(hashes, dtype=np.uint64) >> np.uint64(20)
    return pa.array((short << np.uint64(48)) | (careless << np.uint64(44)) | tie, pa.uint64())


def _untidiness(text: str) -> int:
    """The number of signs of careless writing in a text, 0 to 4."""
    begins_small = text[:1].islower()
    space_before_mark = " ?" in text or " ." in text or " ," in text
    spaces = "  " in text or text != text.strip()
    return begins_small + space_before_mark + spaces + (len(text) > 3 and text.isupper())


def run_starts(*columns: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.bool_]:
    """Where runs of equal keys begin in sorted key columns: one boolean per row."""
    first = np.ones(len(columns[0]), dtype=bool)
    if len(first):
        first[1:] = False
    for column in columns:
        values = column.to_numpy(zero_copy_only=False)
        first[1:] |= values[1:] != values[:-1]
    return first
