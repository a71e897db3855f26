"""Flesch reading ease as textstat 0.7.8 computes it for American English.

Syllables come from the CMU Pronouncing Dictionary (the first pronunciation), those of other words
from the positions where pyphen would hyphenate them. Words are separated by white space, and lose
their punctuation; sentences are separated by full stops, exclamation and question marks, and only
those of three words or more count.
"""

from __future__ import annotations

import functools
import gzip
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyphen

from ray_pipeline.stages.scoring._heuristics.characters import (
    WORD,
    Flags,
    Positions,
    Texts,
    sums_between,
)
from ray_pipeline.stages.scoring._heuristics.word_cache import Entry, WordCache

_SYLLABLES = Path(__file__).parent / "cmudict" / "syllables.txt.gz"
_SENTENCE = re.compile(r"\b[^.!?]+[.!?]*")
_QUOTE = re.compile(r"'(?!t|s|d|ve|ll|re)")  # an apostrophe that is of no contraction
_PUNCTUATION = re.compile(r"[^\w\s']")
_ONE_LETTER = np.isin(np.arange(256), list(b"tsd"))
_TWO_LETTERS = [tuple(ending) for ending in (b"ve", b"ll", b"re")]
_LOWER = np.array([c + 32 if 65 <= c <= 90 else c for c in range(256)], dtype=np.uint8)
_TERMINATOR = np.isin(np.arange(256), list(b".!?"))


class Readability:
    """Reading ease of texts; the syllable counts of words are cached."""

    def __init__(self) -> None:
        self._syllables = WordCache(_syllables_of)

    def of_texts(self, texts: Texts) -> npt.NDArray[np.float64]:
        """The reading ease of each text. Wrong where a text has a character that is not plain."""
        is_word = (texts.classes & WORD) > 0
        kept = np.flatnonzero(is_word | _contraction_apostrophes(texts))
        # A word starts with the first kept character after each start of a run.
        words = np.searchsorted(kept, texts.run_starts(~texts.is_space))
        words = words[words < len(kept)]
        words = words[np.diff(words, prepend=-1) > 0]
        letters = np.zeros((len(kept) + 31) // 8 * 8, dtype=np.uint8)
        letters[: len(kept)] = _LOWER[texts.bytes[kept]]
        syllables = self._syllables(letters, words, len(kept)).marks
        edges = np.searchsorted(kept[words], texts.starts)
        total = sums_between(np.cumsum(syllables), edges)
        return _flesch(np.diff(edges), _sentences(texts, is_word), total)

    def of_text(self, text: str) -> float:
        """The reading ease of one text with any characters."""
        words = len(_words(text))
        lengths = [len(_words(sentence)) for sentence in _SENTENCE.findall(text)]
        sentences = max(1, sum(length > 2 for length in lengths))
        lower = _PUNCTUATION.sub("", _QUOTE.sub("", text)).lower().split()
        syllables = sum(_syllables(word) for word in lower)
        if not words or not syllables:
            return 0.0
        return 206.835 - 1.015 * (words / sentences) - 84.6 * (syllables / words)


def _flesch(
    words: Positions, sentences: Positions, syllables: Positions
) -> npt.NDArray[np.float64]:
    """The formula; 0 where there is no word or no syllable."""
    found = np.zeros(len(words))
    some = (words > 0) & (syllables > 0)
    length = words[some] / sentences[some]
    found[some] = 206.835 - 1.015 * length - 84.6 * (syllables[some] / words[some])
    return found


def _words(text: str) -> list[str]:
    return _PUNCTUATION.sub("", _QUOTE.sub("", text)).split()


def _contraction_apostrophes(texts: Texts) -> Flags:
    """Apostrophes that belong to a word: the letters after them are those of a contraction."""
    data, at = texts.bytes, texts.at("'")
    first, second = data[at + 1], data[at + 2]
    end = texts.starts[texts.text_index(at) + 1]
    stays = _ONE_LETTER[first] & (at + 1 < end)
    for one, two in _TWO_LETTERS:
        stays |= (first == one) & (second == two) & (at + 2 < end)
    found = np.zeros(len(data), dtype=bool)
    found[at[stays]] = True
    return found


def _sentences(texts: Texts, is_word: Flags) -> Positions:
    """Sentences of three words or more in each text, at least one."""
    terminator = _TERMINATOR[texts.bytes]
    # Runs without white space and terminators that hold a word.
    runs = texts.run_starts(~texts.is_space & ~terminator)
    word_at = np.flatnonzero(is_word)
    parts = np.searchsorted(word_at, runs)
    parts = parts[parts < len(word_at)]
    at = word_at[parts[np.diff(parts, prepend=-1) > 0]]
    row = texts.text_index(at)
    sentence = np.cumsum(terminator, dtype=np.int32)[at] + row  # another row, another sentence
    third = np.flatnonzero(sentence[2:] == sentence[:-2])
    first = third[(third == 0) | (sentence[third - 1] != sentence[third])]
    return np.maximum(1, np.bincount(row[first], minlength=texts.number))


def _syllables_of(words: Sequence[bytes]) -> list[Entry]:
    return [Entry(_syllables(word.decode(errors="replace").lower())) for word in words]


def _syllables(word: str) -> int:
    known = _dictionary().get(word)
    return _hyphens().places(word) + 1 if known is None else known


@functools.cache
def _dictionary() -> dict[str, int]:
    """Syllables by word. Each line of the file is a number of syllables and the words that have it.

    It holds the syllables of the dictionary that the package cmudict 1.1.3 contains, and not the
    package itself, which is under the GPL. The dictionary's own licence lies beside the file.
    """
    syllables: dict[str, int] = {}
    for line in gzip.decompress(_SYLLABLES.read_bytes()).decode("ascii").splitlines():
        number, *words = line.split(" ")
        syllables.update(dict.fromkeys(words, int(number)))
    return syllables


class _Hyphens:
    """Counts the places at which pyphen would hyphenate a word.

    pyphen looks up every part of a word among its patterns; a tree of their characters leaves
    out the parts with which no pattern starts.
    """

    def __init__(self) -> None:
        self._tree: dict[str, Any] = {}
        for pattern, (offset, values) in pyphen.Pyphen(lang="en_US").hd.patterns.items():
            node = self._tree
            for character in pattern:
                node = node.setdefault(character, {})
            node[""] = offset, tuple(map(int, values))

    def places(self, word: str) -> int:
        """Their number, at least two characters from either end of a word in lower case."""
        pointed = f".{word}."
        weights = [0] * (len(pointed) + 1)
        for start in range(len(pointed) - 1):
            node = self._tree
            for at in range(start, len(pointed)):
                if pointed[at] not in node:
                    break
                node = node[pointed[at]]
                if "" in node:
                    offset, values = node[""]
                    for place, value in enumerate(values, start + offset):
                        if value > weights[place]:
                            weights[place] = value
        return sum(weight % 2 for weight in weights[3 : len(word)])


@functools.cache
def _hyphens() -> _Hyphens:
    return _Hyphens()
