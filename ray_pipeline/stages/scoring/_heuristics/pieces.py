r"""Texts cut as GPT-2's tokenizer cuts them before its byte-pair encoding, a batch at a time.

The regular expression is::

    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

In other words: texts are cut into runs of letters, of numbers, of symbols and of white space. The
last character of white space in front of something else is cut off; when it is a space, it goes
with what follows. An apostrophe with the end of a contraction behind it, where no space and no
other symbol stands before it, is a piece of its own.
"""

from __future__ import annotations

import numpy as np

from ray_pipeline.stages.scoring._heuristics.characters import KIND, LETTER, Flags, Positions, Texts

_ONE = np.isin(np.arange(256), list(b"stmd"))
_TWO = [tuple(ending) for ending in (b"re", b"ve", b"ll")]


def piece_starts(texts: Texts) -> tuple[Positions, Positions]:
    """Where the pieces of texts start (they cover every byte).

    Returns: the starts, and those of them where a run of letters was cut behind a contraction:
        the ``uff`` of ``'st|uff``. No text may be empty.
    """
    kinds = texts.classes[: texts.size] & KIND
    starts = np.empty(texts.size, dtype=bool)
    starts[1:] = kinds[1:] != kinds[:-1]
    starts[texts.starts[:-1]] = True
    _cut_white_space(texts, starts)
    within = _cut_contractions(texts, starts)
    return np.flatnonzero(starts), within


def _cut_white_space(texts: Texts, starts: Flags) -> None:
    data, space = texts.bytes, texts.is_space[: texts.size]
    behind_space = starts & ~space
    behind_space[1:] &= space[:-1]
    behind_space[texts.starts[:-1]] = False
    behind = np.flatnonzero(behind_space)
    last = behind - 1
    for _ in range(0 if texts.is_ascii else 2):  # to the first byte of the character
        last -= (data[last] & 0xC0) == 0x80
    starts[last] = True
    starts[behind[data[last] == ord(" ")]] = False


def _cut_contractions(texts: Texts, starts: Flags) -> Positions:
    data, at = texts.bytes, texts.at("'")
    at = at[starts[at]]
    first, second = data[at + 1], data[at + 2]
    letters = _ONE[first].astype(np.int64)
    for one, two in _TWO:
        letters += 2 * ((first == one) & (second == two))
    end = at + 1 + letters
    text_end = texts.starts[texts.texts_of(at) + 1]
    contraction = (letters > 0) & (end <= text_end)
    starts[at[contraction] + 1] = False
    end = end[contraction & (end < text_end)]
    starts[end] = True
    return end[(texts.classes[end] & LETTER) > 0]
