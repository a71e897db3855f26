"""The words of a text by their places, and a text with some of them deleted.

A word is what stands between white space, with its punctuation. Deleting words changes no character
of the others: what is left is a subsequence of the text, on the same lines.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

_WORD = re.compile(r"\S+")
_EDGES = re.compile(r"^(?P<lead>[^\w\s]*)(?P<core>.*?)(?P<tail>[^\w\s]*)$", re.DOTALL)
#: Marks that end a sentence or a clause: they stay when their word is deleted.
_ENDS = re.compile(r"[.?!:;…]+")


@dataclass(frozen=True)
class Word:
    """A word of a text.

    Attributes:
        start: where it begins in the text, with its punctuation.
        end: where it ends.
        lead: punctuation before it.
        core: the word itself; empty where there is only punctuation.
        tail: punctuation after it.
        starts_sentence: whether it is the first word of a line or a sentence.
        starts_line: whether it is the first word of a line.
    """

    start: int
    end: int
    lead: str
    core: str
    tail: str
    starts_sentence: bool
    starts_line: bool

    @property
    def text(self) -> str:
        """The word with its punctuation."""
        return self.lead + self.core + self.tail

    @property
    def lower(self) -> str:
        """The word itself in lower case, with straight apostrophes."""
        return self.core.lower().replace("’", "'")


def words_of(text: str) -> list[Word]:
    """The words of a text, in order."""
    found: list[Word] = []
    is_first, before = True, 0
    for match in _WORD.finditer(text):
        starts_line = not found or "\n" in text[before : match.start()]
        is_first = is_first or starts_line
        # Runs of thousands of characters without white space are no words to be looked into.
        edges = _EDGES.match(match[0]) if len(match[0]) <= 200 else None
        lead, core, tail = edges.groups() if edges is not None else ("", match[0], "")
        found.append(Word(match.start(), match.end(), lead, core, tail, is_first, starts_line))
        # A list's dash or number is followed by the start of a sentence.
        if core and not (is_first and core.isdigit()):
            is_first = bool(_ENDS.search(tail))
        before = match.end()
    return found


def without(text: str, words: list[Word], deleted: Collection[int]) -> str:
    """The text without some of its words.

    A mark that ends a sentence moves to the word before, where the deleted word had one. Line
    ends, and the indentation of lines that are left, stay.

    Args:
        text: the text.
        words: see `words_of`.
        deleted: places in `words`.
    """
    if not deleted:
        return text
    gone = set(deleted)
    parts: list[str] = []
    gaps: list[str] = []
    before = 0
    for place, word in enumerate(words):
        gaps.append(text[before : word.start])
        before = word.end
        if place not in gone:
            parts += [_gap(gaps, is_first=not parts), text[word.start : word.end]]
            gaps = []
        elif parts and (mark := _ENDS.search(word.tail)) and "\n" not in "".join(gaps):
            last = parts[-1].rstrip(",")
            parts[-1] = last if _ENDS.search(last[-1:]) else last + mark[0]
    end = text[before:]
    return "".join(parts) + (end if parts else "")


def _gap(gaps: list[str], *, is_first: bool) -> str:
    """White space for that around deleted words: the first gap, or the lines' ends."""
    if len(gaps) == 1 or is_first:
        return gaps[0]
    with_lines = [gap for gap in gaps if "\n" in gap]
    if not with_lines:
        return gaps[0]
    lines = max(gap.count("\n") for gap in with_lines)
    return "\n" * lines + with_lines[-1].rpartition("\n")[2]


def word_set(*lines: str) -> frozenset[str]:
    """The words of some lines."""
    return frozenset(word for line in lines for word in line.split())
