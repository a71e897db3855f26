r"""Texts cut as GPT-2's tokenizer cuts them before its byte-pair encoding, a batch at a time;
and the encoding of a piece by tiktoken.

The regular expression is::

    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

In other words: texts are cut into runs of letters, of numbers, of symbols and of white space. The
last character of white space before something else is cut off; if it is a space, it belongs to
what follows. An apostrophe followed by the end of a contraction, with no space or symbol before
it, is a piece of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import tiktoken

from ray_pipeline.stages.scoring._heuristics.characters import KIND, LETTER, Flags, Positions, Texts

_ONE_LETTER = np.isin(np.arange(256), list(b"stmd"))
_TWO_LETTERS = [tuple(ending) for ending in (b"re", b"ve", b"ll")]


def piece_starts(texts: Texts) -> tuple[Positions, Positions]:
    """Find where the pieces of texts start; pieces cover every byte.

    Returns: the starts, and those of them where a run of letters was cut after a contraction:
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
    after_space = starts & ~space
    after_space[1:] &= space[:-1]
    after_space[texts.starts[:-1]] = False
    first = np.flatnonzero(after_space)
    last = first - 1
    for _ in range(0 if texts.is_ascii else 2):  # to the first byte of the character
        last -= (data[last] & 0xC0) == 0x80
    starts[last] = True
    starts[first[data[last] == ord(" ")]] = False


def _cut_contractions(texts: Texts, starts: Flags) -> Positions:
    data, at = texts.bytes, texts.at("'")
    at = at[starts[at]]
    first, second = data[at + 1], data[at + 2]
    letters = _ONE_LETTER[first].astype(np.int64)
    for one, two in _TWO_LETTERS:
        letters += 2 * ((first == one) & (second == two))
    end = at + 1 + letters
    text_end = texts.starts[texts.text_index(at) + 1]
    contraction = (letters > 0) & (end <= text_end)
    starts[at[contraction] + 1] = False
    end = end[contraction & (end < text_end)]
    starts[end] = True
    return end[(texts.classes[end] & LETTER) > 0]


# Byte-pair encoding of single pieces by tiktoken, where it must give what the tokenizer gives:
# tiktoken joins two neighbours when their bytes together are a token; Hugging Face's tokenizers
# when the two are a merge. That is the same where tokens have the numbers of their merges' order,
# and where each token, encoded by itself, is that token: whenever two neighbours make up a token,
# so they did when it was encoded by itself, and there the next step was to join them.


def encoder(backend: Any) -> Callable[[str], list[int]] | None:
    """The function that encodes a piece; None where tiktoken might give other tokens.

    Args:
        backend: a tokenizer (`tokenizers.Tokenizer`) of byte pairs that cuts as GPT-2's does.
    """
    model = json.loads(backend.to_str())["model"]
    vocabulary: dict[str, int] = model["vocab"]
    merged = ["".join(m if isinstance(m, list) else m.split(" ")) for m in model["merges"]]
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    tokens = set(vocabulary) - added
    alphabet = _alphabet()
    if tokens != {*alphabet, *merged} or len(tokens) != len(alphabet) + len(merged):
        return None
    order = [vocabulary[token] for token in merged]
    if order != sorted(order) or any(len(backend.model.tokenize(token)) != 1 for token in merged):
        return None
    ranks = {bytes(alphabet[c] for c in token): vocabulary[token] for token in tokens}
    made = tiktoken.Encoding("pieces", pat_str=r"(?s).+", mergeable_ranks=ranks, special_tokens={})
    return made.encode_ordinary


def _alphabet() -> dict[str, int]:
    """The characters by which a vocabulary of byte pairs writes bytes, as GPT-2's does."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    found = {chr(byte): byte for byte in printable}
    return found | {chr(256 + i): byte for i, byte in enumerate(others)}
