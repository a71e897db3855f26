"""The features that the rules use: computed by the batch, or for one row with `str` and `re`.

Rows with characters that the batch functions could misread are computed one by one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from ray_pipeline.stages.scoring._heuristics.characters import Flags, Positions, Texts, sums_between
from ray_pipeline.stages.scoring._heuristics.readability import Readability
from ray_pipeline.stages.scoring._heuristics.rules import (
    COMPLEX_QUESTIONS,
    DIRECTIVES,
    STEPS,
    TOPICS,
    Features,
)

_LIST = re.compile(r"^\d+\.|\-\s", re.MULTILINE)


def recompute_row(
    features: Features, row: int, instruction: str, response: str, readability: Readability
) -> None:
    """Replace the features of one row, except for its token counts."""
    question, answer = instruction.lower(), response.lower()
    both = f"{instruction} {response}".lower()
    features.instruction_words[row] = len(instruction.split())
    features.asks[row] = "?" in instruction or _contains_any(DIRECTIVES, question)
    features.reading_ease[row] = readability.of_text(instruction)
    features.is_complex[row] = _contains_any(COMPLEX_QUESTIONS, question)
    features.response_words[row] = len(response.split())
    features.structured[row] = "\n\n" in response or bool(_LIST.search(response))
    sentences = response.split(".")
    features.sentences[row] = len(sentences)
    features.varied[row] = varied([n for s in sentences if (n := len(s.split()))])
    features.code[row] = "```" in response or "def " in response
    features.steps[row] = sum(word in answer for word in STEPS)
    features.topics[row] = sum(word in both for word in TOPICS)


def varied(lengths: Sequence[int]) -> bool:
    """Whether lengths of sentences have a standard deviation above 3."""
    return len(lengths) > 0 and bool(np.std(lengths) > 3)


def _contains_any(words: Sequence[str], text: str) -> bool:
    return any(word in text for word in words)


def word_counts(texts: Texts) -> Positions:
    """Number of words of each text, as `str.split` counts them."""
    at = texts.run_starts(~texts.is_space)
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
    digits = texts.run_starts(_is_digit(data))
    first = digits[np.searchsorted(digits, stops, side="right") - 1]
    begin = texts.starts[texts.text_index(stops)]
    starts_line = (first == begin) | (data[first - 1] == ord("\n"))
    return texts.where(stops[starts_line & (first >= begin)])


def _is_digit(data: np.ndarray) -> Flags:
    return (data >= ord("0")) & (data <= ord("9"))


def sentences(texts: Texts) -> tuple[Positions, Flags]:
    """The number of parts between full stops of each text, and whether their lengths vary.

    The length of a part is its number of words; parts without words do not count. They vary
    when their standard deviation is above 3: computed in integers; where the result is close to
    that, numpy decides, as in a single row.
    """
    stops = texts.bytes[: texts.size] == ord(".")
    at = texts.run_starts(~texts.is_space[: texts.size] & ~stops)
    stops_before = np.cumsum(stops, dtype=np.int64)
    row = texts.text_index(at)
    first = np.flatnonzero(np.diff(stops_before[at] + row, prepend=-1))
    lengths = np.diff(first, append=len(at))
    edges = np.searchsorted(row[first], np.arange(texts.number + 1))
    number = np.diff(edges)
    total = sums_between(np.cumsum(lengths), edges)
    squares = sums_between(np.cumsum(lengths**2), edges)
    variance, border = number * squares - total**2, 9 * number**2  # both times number squared
    vary = variance > border
    for i in np.flatnonzero((np.abs(variance - border) <= 1e-6 * border) & (number > 0)):
        vary[i] = varied(lengths[edges[i] : edges[i + 1]].tolist())
    return sums_between(stops_before, texts.starts) + 1, vary
