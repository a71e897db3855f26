"""Words, marks and sentences of a batch of texts."""

from __future__ import annotations

import numpy as np

from ray_pipeline.stages.scoring._heuristics.characters import Flags, Positions, Texts, growth
from ray_pipeline.stages.scoring._heuristics.row_by_row import varied


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
