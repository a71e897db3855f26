"""A cache of values per distinct word: most words of a corpus repeat.

Words are looked up by the batch: those of up to fifteen bytes, nearly all, in a hash table of
numpy arrays with the bytes themselves as keys; longer ones in a dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ray_pipeline.stages.scoring._heuristics.characters import Bytes, Positions

Numbers = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

#: Number of cached words at which the cache is cleared, and the longest word that is cached: some
#: 100 MB per process.
MOST_WORDS = 400_000
MOST_WORD_BYTES = 60
_SLOT_BITS = 20
_SHORT = 15
_MOST_PER_LOOKUP = 1 << 18  # with the cached words, fewer than there are slots
_HASH = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))


class Entry(NamedTuple):
    """The values of a word."""

    mark: int
    numbers: Sequence[int] = ()


class Entries(NamedTuple):
    """The values of the words of a batch: their marks, and their numbers, concatenated."""

    marks: Numbers
    lengths: Numbers
    numbers: Numbers


class WordCache:
    """Gives each word a mark (its syllables, its keywords) and a list of numbers (its token ids).

    Args:
        compute: computes the entries of words that are not cached.
    """

    _low: Keys
    _high: Keys  # 0: a free slot
    _places: npt.NDArray[np.int32]
    _long: dict[bytes, int]
    _number: int  # of words
    _used: int  # of numbers
    _marks: Numbers
    _starts: Numbers
    _lengths: Numbers
    _numbers: Numbers

    def __init__(self, compute: Callable[[Sequence[bytes]], Sequence[Entry]]) -> None:
        self._compute = compute
        self._clear()

    def __len__(self) -> int:
        return self._number

    def __call__(self, data: Bytes, starts: Positions, end: int) -> Entries:
        """The values of words.

        Args:
            data: the words, concatenated, and 24 bytes or more; a multiple of 8 bytes.
            starts: the position where each word starts.
            end: the position where the last word ends.
        """
        if len(starts) <= _MOST_PER_LOOKUP:
            return self._look_up(data, starts, end)
        parts = []
        for at in range(0, len(starts), _MOST_PER_LOOKUP):
            next_ = starts[at + _MOST_PER_LOOKUP : at + _MOST_PER_LOOKUP + 1]
            until = int(next_[0]) if len(next_) else end
            parts.append(self._look_up(data, starts[at : at + _MOST_PER_LOOKUP], until))
        return Entries(*map(np.concatenate, zip(*parts, strict=True)))

    def _look_up(self, data: Bytes, starts: Positions, end: int) -> Entries:
        if self._number > MOST_WORDS or self._used > 8 * MOST_WORDS:
            self._clear()
        words = self._words(data, starts, end)
        lengths = self._lengths[words]
        ends = np.cumsum(lengths)
        # Where the numbers of each word begin, less where they go: one addition makes an index.
        index = np.repeat(self._starts[words] - (ends - lengths), lengths)
        index += np.arange(len(index))
        return Entries(self._marks[words], lengths, self._numbers[index])

    def _words(self, data: Bytes, starts: Positions, end: int) -> Numbers:
        """The index of each word in the cache."""
        lengths = np.diff(starts, append=end)
        words = np.empty(len(starts), dtype=np.int64)
        new: list[bytes] = []
        is_short = lengths <= _SHORT
        short = np.flatnonzero(is_short)
        words[short] = self._short_words(data, starts[short], lengths[short], new)
        for i in np.flatnonzero(~is_short).tolist():
            word = data[starts[i] : starts[i] + lengths[i]].tobytes()
            place = self._long.get(word)
            if place is None:
                place = self._number + len(new)
                new.append(word)
                if len(word) <= MOST_WORD_BYTES:
                    self._long[word] = place
            words[i] = place
        if new:
            self._add(self._compute(new))
        return words

    def _short_words(
        self, data: Bytes, starts: Positions, lengths: Positions, new: list[bytes]
    ) -> Numbers:
        low, high = _keys(data, starts, lengths)
        mixed = low * _HASH[0] ^ high * _HASH[1]
        mixed ^= mixed >> np.uint64(29)
        slots = (mixed * _HASH[0] >> np.uint64(64 - _SLOT_BITS)).astype(np.int64)
        words = self._places[slots].astype(np.int64)
        missed = np.flatnonzero((self._low[slots] != low) | (self._high[slots] != high))
        while len(missed):
            slot = slots[missed]
            here_low, here_high = self._low[slot], self._high[slot]
            found = (here_low == low[missed]) & (here_high == high[missed])
            words[missed[found]] = self._places[slot[found]]
            free = np.flatnonzero(here_high == 0)
            # Of several words for one free slot, the last gets it; the others try again.
            self._places[slot[free]] = free
            won = free[self._places[slot[free]] == free]
            place = self._number + len(new) + np.arange(len(won))
            self._places[slot[won]] = words[missed[won]] = place
            self._low[slot[won]], self._high[slot[won]] = low[missed[won]], high[missed[won]]
            for i in missed[won].tolist():
                new.append(data[starts[i] : starts[i] + lengths[i]].tobytes())
            taken = (here_high != 0) & ~found
            slots[missed[taken]] = (slot[taken] + 1) % len(self._places)
            found[won] = True
            missed = missed[~found]
        return words

    def _add(self, made: Sequence[Entry]) -> None:
        lengths = np.fromiter((len(entry.numbers) for entry in made), np.int64, len(made))
        flat = np.fromiter((n for entry in made for n in entry.numbers), np.int64, lengths.sum())
        number, used = self._number, self._used
        self._number += len(made)
        self._used += len(flat)
        self._marks = _grown(self._marks, self._number)
        self._lengths = _grown(self._lengths, self._number)
        self._starts = _grown(self._starts, self._number)
        self._numbers = _grown(self._numbers, self._used)
        self._marks[number : self._number] = [entry.mark for entry in made]
        self._lengths[number : self._number] = lengths
        self._starts[number : self._number] = used + np.cumsum(lengths) - lengths
        self._numbers[used : self._used] = flat

    def _clear(self) -> None:
        slots = 1 << _SLOT_BITS
        self._low = np.zeros(slots, dtype=np.uint64)
        self._high = np.zeros(slots, dtype=np.uint64)
        self._places = np.zeros(slots, dtype=np.int32)
        self._long = {}
        self._number = self._used = 0
        self._marks, self._starts, self._lengths, self._numbers = (
            np.zeros(1024, dtype=np.int64) for _ in range(4)
        )


def _grown(array: Numbers, size: int) -> Numbers:
    if size <= len(array):
        return array
    larger = np.zeros(max(size, 2 * len(array)), dtype=array.dtype)
    larger[: len(array)] = array
    return larger


#: Masks of a word's first eight bytes and of the seven after them, by its length.
_LOW_MASK = np.array([(1 << 8 * min(n, 8)) - 1 for n in range(16)], dtype=np.uint64)
_HIGH_MASK = np.array([(1 << 8 * max(n - 8, 0)) - 1 for n in range(16)], dtype=np.uint64)


def _keys(data: Bytes, starts: Positions, lengths: Positions) -> tuple[Keys, Keys]:
    """Words of up to fifteen bytes as two numbers: their bytes and their length."""
    blocks = data.view(np.uint64)
    block = starts >> 3
    shift = ((starts & 7) << 3).astype(np.uint64)
    back = np.uint64(63) - shift
    one = np.uint64(1)
    first, second, third = blocks[block], blocks[block + 1], blocks[block + 2]
    low = first >> shift | second << one << back
    high = second >> shift | third << one << back
    low &= _LOW_MASK[lengths]
    high &= _HIGH_MASK[lengths]
    high |= lengths.astype(np.uint64) << np.uint64(56)
    return low, high
