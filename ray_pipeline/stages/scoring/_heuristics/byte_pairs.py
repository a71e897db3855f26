"""Byte-pair encoding of single pieces by tiktoken, where it must give what the tokenizer gives.

tiktoken joins two neighbours when their bytes together are a token; Hugging Face's tokenizers when
the two are a merge. That is the same where tokens have the numbers of their merges' order, and
where each token, encoded by itself, is that token: whenever two neighbours make up a token, so they
did when it was encoded by itself, and there the next step was to join them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import tiktoken


def encoder(backend: Any) -> Callable[[str], list[int]] | None:
    """What encodes a piece, or None where tiktoken might give other tokens.

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
