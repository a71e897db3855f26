"""What the rules look at: by the batch, and in one row by the methods of `str` and `re` themselves.

One by one go the rows with characters about which the short cuts of a batch could be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from ray_pipeline.stages.scoring._heuristics.characters import Flags, Positions, Texts, growth
from ray_pipeline.stages.scoring._heuristics.readability import Readability
from ray_pipeline.stages.scoring._heuristics.rules import (
    COMPLEX_QUESTIONS,
    DIRECTIVES,
    STEPS,
    TOPICS,
    Found,
)

_LIST = re.compile(r"^\d+\.|\-\s", re.MULTILINE)


def correct(
    found: Found, row: int, instruction: str, response: str, readability: Readability
) -> None:
    """Set what was found in one row, except for its tokens."""
    question, answer = instruction.lower(), response.lower()
    both = f"{instruction} {response}".lower()
    found.instruction_words[row] = len(instruction.split())
    found.asks[row] = "?" in instruction or _any(DIRECTIVES, question)
    found.reading_ease[row] = readability.of_text(instruction)
    found.is_complex[row] = _any(COMPLEX_QUESTIONS, question)
    found.response_words[row] = len(response.split())
    found.structured[row] = "\n\n" in response or bool(_LIST.search(response))
    sentences = response.split(".")
    found.sentences[row] = len(sentences)
    found.varied[row] = varied([n for s in sentences if (n := len(s.split()))])
    found.code[row] = "```" in response or "def " in response
    found.steps[row] = sum(word in answer for word in STEPS)
    found.topics[row] = sum(word in both for word in TOPICS)


def varied(lengths: Sequence[int]) -> bool:
    """Whether lengths of sentences have a standard deviation above 3."""
    return len(lengths) > 0 and bool(np.std(lengths) > 3)


def _any(words: Sequence[str], text: str) -> bool:
    return any(word in text for word in words)


def word_counts(texts: Texts) -> Positions:
    """Words of each text, as `str.split` counts them."""
    at = texts.first_of_runs(~texts.is_space)
    return np.diff(np.searchsorted(at, texts.starts))


def paragraphs(texts: Texts) -> Flags:
    """Which texts hold an empty line."""
    at = texts.at("\n")
    return texts.where(at[texts.bytes[at + 1] == ord("\n")], 2)


def fences(texts: Texts) -> Flags:
    """Which texts hold a fence of code: three backquotes."""
    at = texts.at("`")
    quotes = texts.bytes == ord("`")
    return texts.where(at[quotes[at + 1] & quotes[at + 2]], 3)


def lists(texts: Texts) -> Flags:
    r"""Which texts match ``^\d+\.|\-\s``: a line that starts "1.", or a dash before white space."""
    dashes = texts.at("-")
    return texts.where(dashes[texts.is_space[dashes + 1]], 2) | _numbered(texts)


def _numbered(texts: Texts) -> Flags:
    data = texts.bytes
    stops = texts.at(".")
    stops = stops[stops > 0]
    stops = stops[_is_digit(data[stops - 1])]
    if not len(stops):
        return np.zeros(texts.number, dtype=bool)
    digits = texts.first_of_runs(_is_digit(data))
    first = digits[np.searchsorted(digits, stops, side="right") - 1]
    begin = texts.starts[texts.texts_of(stops)]
    starts_line = (first == begin) | (data[first - 1] == ord("\n"))
    return texts.where(stops[starts_line & (first >= begin)])


def _is_digit(data: np.ndarray) -> Flags:
    return (data >= ord("0")) & (data <= ord("9"))


def sentences(texts: Texts) -> tuple[Positions, Flags]:
    """Of each text: its parts between full stops, and whether their lengths vary.

    Lengths are words of the parts that have any. They vary when their standard deviation is above
    3: computed in whole numbers; where it is near that, numpy has the word.
    """
    stops = texts.bytes[: texts.size] == ord(".")
    at = texts.first_of_runs(~texts.is_space[: texts.size] & ~stops)
    stops_before = np.cumsum(stops, dtype=np.int64)
    row = texts.texts_of(at)
    first = np.flatnonzero(np.diff(stops_before[at] + row, prepend=-1))
    lengths = np.diff(first, append=len(at))
    edges = np.searchsorted(row[first], np.arange(texts.number + 1))
    number = np.diff(edges)
    total = growth(np.cumsum(lengths), edges)
    squares = growth(np.cumsum(lengths**2), edges)
    variance, border = number * squares - total**2, 9 * number**2  # both times number squared
    vary = variance > border
    for i in np.flatnonzero((np.abs(variance - border) <= 1e-6 * border) & (number > 0)):
        vary[i] = varied(lengths[edges[i] : edges[i + 1]].tolist())
    return growth(stops_before, texts.starts) + 1, vary
