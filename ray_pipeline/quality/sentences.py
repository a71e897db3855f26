"""Words of instructions and responses, and how the lengths of sentences vary, by the batch."""

from __future__ import annotations

import numpy as np

from ray_pipeline.quality.characters import Flags, Positions, Texts
from ray_pipeline.quality.row_by_row import varied

_STOP = ord(".")


def words(texts: Texts) -> tuple[Positions, Positions]:
    """Words of each instruction and of each response, as `str.split` counts them."""
    at = texts.first_of_runs(~texts.is_space)
    found = np.diff(np.searchsorted(at, texts.edges))
    return found[0::2], found[1::2]


def sentences(texts: Texts) -> tuple[Positions, Flags]:
    """Of each response: its parts between full stops, and whether their lengths vary.

    Lengths are words of the parts that have any. They vary when their standard deviation is above
    3: counted in whole numbers; where these are near the border, numpy has the word.
    """
    stops = (texts.bytes == _STOP) & ~texts.in_instruction
    stops_before = np.cumsum(stops[: texts.size], dtype=np.int64)
    at = texts.first_of_runs(~texts.is_space & ~stops & ~texts.in_instruction)
    row = np.searchsorted(texts.starts, at, side="right") - 1
    sentence = stops_before[at] + row
    first = np.flatnonzero(np.diff(sentence, prepend=-1))
    lengths = np.diff(first, append=len(sentence))
    edges = np.searchsorted(row[first], np.arange(texts.number + 1))
    number = np.diff(edges)
    total = np.diff(np.append(0, np.cumsum(lengths))[edges])
    squares = np.diff(np.append(0, np.cumsum(lengths**2))[edges])
    variance, border = number * squares - total**2, 9 * number**2  # both times number squared
    vary = variance > border
    for i in np.flatnonzero((np.abs(variance - border) <= 1e-6 * border) & (number > 0)):
        vary[i] = varied(lengths[edges[i] : edges[i + 1]].tolist())
    ends = np.append(0, stops_before)[texts.starts]
    return np.diff(ends) + 1, vary
