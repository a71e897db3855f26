"""Token counts of batches of texts: tokens, distinct tokens, and distinct pairs of tokens.

Pairs are counted as in the original experiment: as strings, both tokens joined by ``_``. So
``a_`` + ``b`` and ``a`` + ``_b`` are the same pair, if a text should have both.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer

from ray_pipeline.stages.scoring._heuristics.characters import Flags
from ray_pipeline.stages.scoring._heuristics.pieces import encoder
from ray_pipeline.stages.scoring._heuristics.word_cache import Numbers

_GPT2_PIECES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


@dataclass(frozen=True)
class Counts:
    """Token counts of each row."""

    tokens: Numbers
    distinct: Numbers
    distinct_pairs: Numbers

    def replace(self, rows: Numbers, by: Counts) -> None:
        """Replace the counts of some rows."""
        for counts, new in zip(vars(self).values(), vars(by).values(), strict=True):
            counts[rows] = new


class Tokens:
    """Counts with a tokenizer of Hugging Face.

    Args:
        tokenizer: a fast one (`transformers.PreTrainedTokenizerFast`).
    """

    def __init__(self, tokenizer: Any) -> None:
        # A copy, because settings of the caller's tokenizer change with each of its calls.
        self._backend: Any = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.encode_special_tokens = True  # a row that spells one has it as text
        self._backend.no_truncation()  # that of a sentence embedder may have both set
        self._backend.no_padding()
        strings = self._backend.get_vocab(with_added_tokens=True)
        size = max(strings.values(), default=0) + 1
        self._bits = max(1, int(size - 1).bit_length())
        self._strings = np.full(size, "", dtype=object)
        for string, number in strings.items():
            self._strings[number] = string
        #: The first id with the same string; None where all ids have distinct strings, as usual.
        self._alias = self._aliases()
        added = self._backend.get_added_tokens_decoder().values()
        self.added = [token.content for token in added if not token.special]
        #: Whether it cuts texts as GPT-2's does, so that pieces can be encoded by themselves.
        self.cuts_as_gpt2 = _cuts_as_gpt2(self._backend)
        self._encode = encoder(self._backend) if self.cuts_as_gpt2 else None

    def count_texts(self, texts: pa.Array) -> Counts:
        """Counts of texts, each encoded whole by the tokenizer."""
        encoded = self._backend.encode_batch_fast(texts.to_pylist(), add_special_tokens=False)
        lengths = np.fromiter((len(e.ids) for e in encoded), np.int64, len(encoded))
        ids = np.fromiter((i for e in encoded for i in e.ids), np.int64, lengths.sum())
        return self.count(lengths, ids)

    def hold_added_token(self, texts: pa.Array, data: bytes) -> Flags:
        """Which texts hold an added token that is not special: it is found before cutting.

        Args:
            texts: the texts.
            data: the same texts, concatenated: a token that is not in it is in none of them.
        """
        found = np.zeros(len(texts), dtype=bool)
        for token in self.added:
            if token.encode() in data:
                found |= pc.match_substring(texts, token).to_numpy(zero_copy_only=False)
        return found

    def encode_pieces(self, pieces: Sequence[bytes]) -> list[list[int]]:
        """The ids of pieces, each encoded by itself."""
        words = [piece.decode(errors="replace") for piece in pieces]
        if self._encode:
            return list(map(self._encode, words))
        found: list[list[int]] = [[] for _ in words]
        # One call for all, as the words of a text that is cut already.
        made = self._backend.encode(words, is_pretokenized=True, add_special_tokens=False)
        for word, number in zip(made.word_ids, made.ids, strict=True):
            found[word].append(number)
        return found

    def count(self, lengths: Numbers, ids: Numbers) -> Counts:
        """Counts of texts.

        Args:
            lengths: number of tokens of each text.
            ids: the tokens of all texts, concatenated.
        """
        if self._alias is not None:
            ids = self._alias[ids]
        number, bits = len(lengths), self._bits
        rows = np.repeat(np.arange(number), lengths)
        distinct, _ = _distinct(rows, ids, bits)
        same_row = rows[1:] == rows[:-1]
        pairs = (ids[:-1] << bits | ids[1:])[same_row]
        row_of_pair, pair = _distinct(rows[1:][same_row], pairs, 2 * bits)
        distinct_pairs = np.bincount(row_of_pair, minlength=number)
        distinct_pairs -= self._pairs_with_equal_strings(row_of_pair, pair, number)
        return Counts(lengths, np.bincount(distinct, minlength=number), distinct_pairs)

    def _pairs_with_equal_strings(self, rows: Numbers, pairs: Numbers, number: int) -> Numbers:
        """The number of each row's distinct pairs whose string equals that of another pair.

        Where ``x_y`` can be read in two ways, one pair has ``_`` inside or at the end of its first
        token, and the other one has it inside or at the start of its second token.
        """
        first, second = pairs >> self._bits, pairs & (1 << self._bits) - 1
        here = np.flatnonzero(self._splits_after[first] | self._splits_before[second])
        fewer = np.zeros(number, dtype=np.int64)
        seen: set[tuple[int, str]] = set()
        for row, one, other in zip(
            rows[here].tolist(), first[here].tolist(), second[here].tolist(), strict=True
        ):
            key = (row, f"{self._strings[one]}_{self._strings[other]}")
            fewer[row] += key in seen
            seen.add(key)
        return fewer

    @cached_property
    def _splits_after(self) -> Flags:
        """Which tokens have ``_`` after their first character."""
        return np.array(["_" in string[1:] for string in self._strings])

    @cached_property
    def _splits_before(self) -> Flags:
        """Which tokens have ``_`` before their last character."""
        return np.array(["_" in string[:-1] for string in self._strings])

    def _aliases(self) -> Numbers | None:
        first: dict[str, int] = {}
        alias = [first.setdefault(s, i) if s else i for i, s in enumerate(self._strings)]
        found = np.array(alias, dtype=np.int64)
        return None if (found == np.arange(len(found))).all() else found


def _distinct(rows: Numbers, values: Numbers, bits: int) -> tuple[Numbers, Numbers]:
    """The distinct (row, value), as two arrays."""
    keys = rows << bits | values
    if len(rows) and (int(rows[-1]) + 1) << bits <= 1 << 32:
        keys = keys.astype(np.uint32)
    keys = np.sort(keys)
    new = np.ones(len(keys), dtype=bool)
    new[1:] = keys[1:] != keys[:-1]
    keys = keys[new].astype(np.int64)
    return keys >> bits, keys & (1 << bits) - 1


def _cuts_as_gpt2(backend: Any) -> bool:
    """Whether a tokenizer cuts texts as GPT-2's does, and encodes each piece by itself."""
    made = json.loads(backend.to_str())
    model, pieces = made["model"], made["pre_tokenizer"] or {}
    return (
        all(pieces.get(key) == value for key, value in _GPT2_PIECES.items())
        and made["normalizer"] is None
        and model["type"] == "BPE"
        and not model.get("dropout")
        and not any(
            t["single_word"] or t["lstrip"] or t["normalized"] for t in made["added_tokens"]
        )
    )
