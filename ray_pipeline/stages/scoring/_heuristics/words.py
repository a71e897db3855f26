"""Keywords and token counts of a batch, from the pieces of its texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ray_pipeline.stages.scoring._heuristics.characters import Flags, Positions, Texts
from ray_pipeline.stages.scoring._heuristics.pieces import piece_starts
from ray_pipeline.stages.scoring._heuristics.rules import (
    COMPLEX_QUESTIONS,
    DIRECTIVES,
    STEPS,
    TOPICS,
)
from ray_pipeline.stages.scoring._heuristics.tokens import Counts, Tokens
from ray_pipeline.stages.scoring._heuristics.word_cache import Entry, Numbers, WordCache

#: All consist of letters, so that none crosses the end of a piece.
KEYWORDS = tuple(dict.fromkeys((*DIRECTIVES, *COMPLEX_QUESTIONS, *STEPS, *TOPICS)))
_BITS = {keyword: 1 << bit for bit, keyword in enumerate(KEYWORDS)}
_DEF = 1 << len(KEYWORDS)  # Python's ``def``, if a space follows


@dataclass(frozen=True)
class Keywords:
    """The keywords that occur in each text of a batch, ignoring case, as bits of an integer."""

    bits: Numbers

    def any(self, words: Iterable[str]) -> Flags:
        """Which texts hold any of the words."""
        return (self.bits & sum(_BITS[word] for word in words)) > 0

    def count(self, words: Iterable[str]) -> Numbers:
        """Number of the words that each text holds."""
        found = np.zeros(len(self.bits), dtype=np.int64)
        for word in words:
            found += (self.bits & _BITS[word]) > 0
        return found

    def functions(self) -> Flags:
        """Which texts hold ``def`` and a space."""
        return (self.bits & _DEF) > 0


@dataclass(frozen=True)
class PieceFeatures:
    """Keywords and token counts of a batch.

    Attributes:
        instructions: keywords of the instructions.
        responses: keywords of the responses.
        counts: the token counts; None where the tokenizer has to encode whole texts.
        uncertain: rows in which a keyword may be cut in two.
    """

    instructions: Keywords
    responses: Keywords
    counts: Counts | None
    uncertain: Flags


class PieceReader:
    """Reads texts piece by piece; the values of each distinct piece are cached.

    Args:
        tokens: the tokenizer.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self.cache = WordCache(self._entries)

    def read(self, joined: Texts, middles: Positions) -> PieceFeatures:
        """Read instructions and responses.

        Args:
            joined: each instruction, a space, and its response.
            middles: the positions of these spaces.
        """
        starts, within = piece_starts(joined)
        entries = self.cache(joined.bytes, starts, joined.size)
        some = np.flatnonzero(entries.marks)
        at, found = starts[some], entries.marks[some]
        ends = np.append(starts, joined.size)[some + 1]
        row = joined.text_index(at)
        # "def" at the end of a text is followed by another text's first letter.
        called = (joined.bytes[ends] == ord(" ")) & (ends < joined.starts[row + 1])
        found = np.where(called, found, found & ~_DEF)
        bits = np.zeros((2, joined.number), dtype=np.int64)
        np.bitwise_or.at(bits, ((at >= middles[row]).astype(np.int64), row), found)
        uncertain = np.zeros(joined.number, dtype=bool)
        uncertain[joined.text_index(within)] = True
        counts = None
        if self._tokens.cuts_as_gpt2:
            first = np.searchsorted(starts, joined.starts[:-1])
            lengths = np.add.reduceat(entries.lengths, first)
            counts = self._tokens.count(lengths, entries.numbers)
        return PieceFeatures(Keywords(bits[0]), Keywords(bits[1]), counts, uncertain)

    def _entries(self, pieces: Sequence[bytes]) -> list[Entry]:
        """The keywords, as bits, and the token ids of each piece."""
        marks = map(_keywords_in, pieces)
        if not self._tokens.cuts_as_gpt2:
            return list(map(Entry, marks))
        return list(map(Entry, marks, self._tokens.encode_pieces(pieces)))


def _keywords_in(piece: bytes) -> int:
    if not _ANY.search(piece):
        return 0
    lower = piece.lower()  # of ASCII letters, as all keywords have
    found = sum(bit for word, bit in _BITS.items() if word.encode() in lower)
    return found | _DEF if piece.endswith(b"def") else found


_ANY = re.compile("|".join((*KEYWORDS, "def$")).encode(), re.IGNORECASE)
