"""Shingles, MinHash signatures and bands of many texts at once, in numpy.

MinHash after Broder (1997), banding after Leskovec, Rajaraman and Ullman, "Mining of Massive
Datasets", chapter 3. Vectorised over a batch of texts instead of one text at a time, which is what
libraries offer (`benchmarks/near_duplicates.py` measures both).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

UInt32s = npt.NDArray[np.uint32]
UInt64s = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

# Scripts that write without spaces: each character counts as a word.
_UNSPACED = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Khmer}\p{Lao}\p{Myanmar}])"
_NOT_A_WORD = r"[^\pL\pN\pM]+"


def shingles(texts: pa.Array, size: int) -> pa.Array:
    """Hashes of the runs of ``size`` words of each text; repeated runs are repeated.

    A shorter text is one run. A text without a word has none.

    Args:
        texts: strings; null counts as empty.
        size: words a shingle.

    Returns:
        list<uint32>, one a text. With 32 bits, two shingles of a pair of texts of 1,000 words
        collide with a chance of 0.02%, which moves their similarity by 0.001.
    """
    words, offsets = _words(texts)
    length = np.diff(offsets)
    starts = np.repeat(offsets[:-1], length)
    ends = np.repeat(offsets[1:], length)
    position = np.arange(len(words))
    hashes = np.zeros(len(words), dtype=np.uint64)
    padded = np.concatenate([words, np.zeros(size, dtype=np.uint64)])
    for step in range(size):
        hashes *= np.uint64(0x100000001B3)
        hashes += np.where(position + step < ends, padded[step : len(words) + step], 0)
    whole = (position + size <= ends) | ((position == starts) & (starts + size > ends))
    made = _mixed(hashes[whole]) >> np.uint64(32)
    counts = np.maximum(np.minimum(length, 1), length - size + 1)
    return pa.ListArray.from_arrays(_offsets(counts), pa.array(made.astype(np.uint32)))


def _words(texts: pa.Array) -> tuple[UInt64s, Ints]:
    """Hashes of all words of all texts, and where each text's words begin."""
    lower = pc.utf8_lower(pc.fill_null(texts, ""))
    spaced = pc.replace_substring_regex(lower, _UNSPACED, r" \1 ")
    clean = pc.utf8_trim_whitespace(pc.replace_substring_regex(spaced, _NOT_A_WORD, " "))
    # Splitting "" would give one empty word, splitting null gives none.
    nothing = pa.scalar(None, pa.string())
    split = pc.split_pattern(pc.if_else(pc.equal(clean, ""), nothing, clean), " ")
    lengths = pc.fill_null(pc.list_value_length(split), 0).to_numpy(zero_copy_only=False)
    encoded = pc.list_flatten(split).dictionary_encode()
    hashed = [xxhash.xxh3_64_intdigest(word.encode()) for word in encoded.dictionary.to_pylist()]
    dictionary = np.array(hashed, dtype=np.uint64)
    indices = encoded.indices.to_numpy(zero_copy_only=False)
    return dictionary[indices], _offsets(lengths)


def _offsets(counts: npt.NDArray[Any]) -> Ints:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)


def _mixed(values: UInt64s) -> UInt64s:
    """splitmix64's finaliser: every bit of the result depends on every bit of the value."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def band_keys(lists: pa.Array, bands: int, rows: int, seed: int) -> UInt64s:
    """A hash of each band of each text's MinHash signature.

    Two texts of Jaccard similarity J share at least one of them with a chance of
    1 - (1 - J^rows)^bands.

    Args:
        lists: list<uint32>, the shingles of each text; every list has at least one.
        bands: bands a signature.
        rows: hashes a band.
        seed: of the hash functions.

    Returns:
        Shape [texts, bands].
    """
    values = lists.flatten().to_numpy()
    starts = lists.offsets.to_numpy()[:-1] - lists.offsets[0].as_py()
    random = np.random.default_rng(seed)
    factors = random.integers(0, 2**32, (bands, rows), dtype=np.uint32) | np.uint32(1)
    addends = random.integers(0, 2**32, (bands, rows), dtype=np.uint32)
    keys = np.empty((len(lists), bands), dtype=np.uint64)
    if not len(lists):
        return keys
    for band in range(bands):
        key = np.full(len(lists), band + 1, dtype=np.uint64)
        for factor, addend in zip(factors[band], addends[band], strict=True):
            minima = np.minimum.reduceat(values * factor + addend, starts)
            key = _mixed((key << np.uint64(1)) + minima)
        keys[:, band] = key
    return keys


def jaccard(left: pa.Array, right: pa.Array) -> npt.NDArray[np.float32]:
    """Jaccard similarity of the sets in two list<uint32> arrays, pair by pair."""
    number = len(left)
    first, second = _sets(left), _sets(right)
    pair_of = np.arange(number + 1, dtype=np.uint64) << np.uint64(32)
    sizes = [np.diff(np.searchsorted(values, pair_of)) for values in (first, second)]
    common = np.intersect1d(first, second, assume_unique=True)
    shared = np.diff(np.searchsorted(common, pair_of))
    union = np.maximum(sizes[0] + sizes[1] - shared, 1)
    return (shared / union).astype(np.float32)


def _sets(lists: pa.Array) -> UInt64s:
    """Every list's distinct values, with the list's number in the upper 32 bits; sorted."""
    numbers = pc.list_parent_indices(lists).to_numpy().astype(np.uint64)
    return np.unique((numbers << np.uint64(32)) | lists.flatten().to_numpy().astype(np.uint64))
