"""Keywords and tokens of a batch, from the pieces of its texts."""

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
from ray_pipeline.stages.scoring._heuristics.vocabulary import Entry, Numbers, Vocabulary

#: All are made of letters, so that none goes over the end of a piece.
KEYWORDS = tuple(dict.fromkeys((*DIRECTIVES, *COMPLEX_QUESTIONS, *STEPS, *TOPICS)))
_BITS = {keyword: 1 << bit for bit, keyword in enumerate(KEYWORDS)}
_DEF = 1 << len(KEYWORDS)  # Python's ``def``, if a space follows


@dataclass(frozen=True)
class Keywords:
    """Which keywords a batch of texts holds, in whatever case: bits, a number a text."""

    bits: Numbers

    def any(self, words: Iterable[str]) -> Flags:
        """Which texts hold one of several words."""
        return (self.bits & sum(_BITS[word] for word in words)) > 0

    def count(self, words: Iterable[str]) -> Numbers:
        """How many of several words each text holds."""
        found = np.zeros(len(self.bits), dtype=np.int64)
        for word in words:
            found += (self.bits & _BITS[word]) > 0
        return found

    def functions(self) -> Flags:
        """Which texts hold ``def`` and a space."""
        return (self.bits & _DEF) > 0


@dataclass(frozen=True)
class Read:
    """What was found in the words of a batch.

    Attributes:
        instructions: keywords of the instructions.
        responses: keywords of the responses.
        counts: the tokens; None where they must be asked of the tokenizer.
        unsure: rows in which a keyword may have been cut in two.
    """

    instructions: Keywords
    responses: Keywords
    counts: Counts | None
    unsure: Flags


class Words:
    """Looks at texts piece by piece; what was found in a piece is remembered.

    Args:
        tokens: the tokenizer.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self.known = Vocabulary(self._look)

    def read(self, joined: Texts, middles: Positions) -> Read:
        """Read instructions and responses.

        Args:
            joined: each instruction, a space, and its response.
            middles: where these spaces are.
        """
        starts, within = piece_starts(joined)
        known = self.known(joined.bytes, starts, joined.size)
        some = np.flatnonzero(known.marks)
        at, found = starts[some], known.marks[some]
        ends = np.append(starts, joined.size)[some + 1]
        row = joined.texts_of(at)
        # "def" at the end of a text is followed by another text's first letter.
        called = (joined.bytes[ends] == ord(" ")) & (ends < joined.starts[row + 1])
        found = np.where(called, found, found & ~_DEF)
        bits = np.zeros((2, joined.number), dtype=np.int64)
        np.bitwise_or.at(bits, ((at >= middles[row]).astype(np.int64), row), found)
        unsure = np.zeros(joined.number, dtype=bool)
        unsure[joined.texts_of(within)] = True
        counts = None
        if self._tokens.cuts_as_gpt2:
            first = np.searchsorted(starts, joined.starts[:-1])
            lengths = np.add.reduceat(known.lengths, first)
            counts = self._tokens.count(lengths, known.numbers)
        return Read(Keywords(bits[0]), Keywords(bits[1]), counts, unsure)

    def _look(self, pieces: Sequence[bytes]) -> list[Entry]:
        """Of each piece: its keywords as bits, and its token ids."""
        marks = map(_keywords_in, pieces)
        if not self._tokens.cuts_as_gpt2:
            return list(map(Entry, marks))
        return list(map(Entry, marks, self._tokens.of_pieces(pieces)))


def _keywords_in(piece: bytes) -> int:
    if not _ANY.search(piece):
        return 0
    lower = piece.lower()  # of ASCII letters, as all keywords have
    found = sum(bit for word, bit in _BITS.items() if word.encode() in lower)
    return found | _DEF if piece.endswith(b"def") else found


_ANY = re.compile("|".join((*KEYWORDS, "def$")).encode(), re.IGNORECASE)
