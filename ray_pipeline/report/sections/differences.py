"""What changed between two texts, word by word."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

_WORD = re.compile(r"\w+|\s+|[^\w\s]")
#: Longer texts are cut around their first difference: comparing costs the square of their words.
LONGEST = 700
#: How much of what is the same stands before the first difference of a text that is cut.
_LEAD = 120


@dataclass(frozen=True)
class Piece:
    """A run of words that both texts have, or only the one that it belongs to."""

    kind: Literal["same", "changed"]
    text: str


def differences(before: str, after: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts as pieces, those that the other has not marked."""
    before, after = _around_first_difference(before, after)
    old, new = _WORD.findall(before), _WORD.findall(after)
    left: list[Piece] = []
    right: list[Piece] = []
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    for tag, i, j, k, m in matcher.get_opcodes():
        kind: Literal["same", "changed"] = "same" if tag == "equal" else "changed"
        if i < j:
            left.append(Piece(kind, "".join(old[i:j])))
        if k < m:
            right.append(Piece(kind, "".join(new[k:m])))
    return _without_islands(left), _without_islands(right)


def _without_islands(pieces: list[Piece]) -> list[Piece]:
    """Join two changes that nothing but white space keeps apart: one mark reads better."""
    joined: list[Piece] = []
    for position, piece in enumerate(pieces):
        island = piece.kind == "same" and not piece.text.strip()
        inside = 0 < position < len(pieces) - 1
        if island and inside:
            piece = Piece("changed", piece.text)
        if joined and joined[-1].kind == piece.kind:
            piece = Piece(piece.kind, joined.pop().text + piece.text)
        joined.append(piece)
    return joined


def _around_first_difference(before: str, after: str) -> tuple[str, str]:
    if max(len(before), len(after)) <= LONGEST:
        return before, after
    same = 0
    for old, new in zip(before, after, strict=False):
        if old != new:
            break
        same += 1
    start = max(0, same - _LEAD)
    return _window(before, start), _window(after, start)


def _window(text: str, start: int) -> str:
    end = start + LONGEST
    return "…" * (start > 0) + text[start:end] + "…" * (end < len(text))
