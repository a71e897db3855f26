"""Something about each distinct word, worked out once and kept: words repeat themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Numbers = npt.NDArray[np.int64]

#: Words kept at most, and the longest that are: at most some 100 MB in a process.
KEPT_WORDS = 400_000
KEPT_BYTES = 40


class Vocabulary:
    """Gives each word a list of numbers (its token ids, its syllables).

    Args:
        numbers_of: works out the numbers of words that are met for the first time.
        forget: called when the words are forgotten because there are too many.
    """

    def __init__(
        self,
        numbers_of: Callable[[Sequence[bytes]], Sequence[Sequence[int]]],
        forget: Callable[[], None] | None = None,
    ) -> None:
        self._numbers_of = numbers_of
        self._forget = forget
        self._clear()

    def __call__(self, words: pa.Array) -> tuple[Numbers, Numbers]:
        """How many numbers each word has, and the numbers of all words one behind the other."""
        if not len(words):
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        encoded = words.dictionary_encode()
        places, passing = self._places(encoded.dictionary.to_numpy(zero_copy_only=False).tolist())
        of_word = places[encoded.indices.to_numpy()]
        lengths = self._lengths[of_word]
        starts = self._starts[of_word]
        ends = np.cumsum(lengths)
        # Where the numbers of each word begin, less where they go: one addition makes an index.
        index = np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1])
        numbers = self._numbers[index]
        if passing:
            self._take_back(passing)
        return lengths, numbers

    def _places(self, words: Sequence[bytes]) -> tuple[Numbers, int]:
        if len(self._known) > KEPT_WORDS:
            self._clear()
        found = list(map(self._known.get, words))
        new = [i for i, place in enumerate(found) if place is None]
        if not new:
            return np.array(found, dtype=np.int64), 0
        # Long words come last, so that they can be taken back.
        new.sort(key=lambda i: len(words[i]) > KEPT_BYTES)
        made = self._numbers_of([words[i] for i in new])
        first = self._add(made)
        for place, i in enumerate(new, start=first):
            found[i] = place
            if len(words[i]) <= KEPT_BYTES:
                self._known[words[i]] = place
        passing = sum(len(words[i]) > KEPT_BYTES for i in new)
        return np.array(found, dtype=np.int64), passing

    def _add(self, made: Sequence[Sequence[int]]) -> int:
        first = self._words
        lengths = np.fromiter(map(len, made), np.int64, len(made))
        flat = np.fromiter((n for numbers in made for n in numbers), np.int64, lengths.sum())
        self._lengths = _with_room(self._lengths, first + len(made))
        self._starts = _with_room(self._starts, first + len(made))
        self._numbers = _with_room(self._numbers, self._used + len(flat))
        self._lengths[first : first + len(made)] = lengths
        self._starts[first : first + len(made)] = self._used + np.cumsum(lengths) - lengths
        self._numbers[self._used : self._used + len(flat)] = flat
        self._words += len(made)
        self._used += len(flat)
        return first

    def _take_back(self, words: int) -> None:
        self._words -= words
        self._used = int(self._starts[self._words])

    def _clear(self) -> None:
        self._known: dict[bytes, int] = {}
        self._starts = np.zeros(1024, dtype=np.int64)
        self._lengths = np.zeros(1024, dtype=np.int64)
        self._numbers = np.zeros(1024, dtype=np.int64)
        self._words = self._used = 0
        if self._forget:
            self._forget()


def _with_room(array: Numbers, size: int) -> Numbers:
    if size <= len(array):
        return array
    larger = np.zeros(max(size, 2 * len(array)), dtype=array.dtype)
    larger[: len(array)] = array
    return larger
