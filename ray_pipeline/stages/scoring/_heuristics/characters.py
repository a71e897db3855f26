"""Classes of characters, and a batch of texts as bytes with the class of each byte.

Four libraries define words, spaces and letters: `str.split`, Python's `re`, textstat (which uses
both), and the regular expression of a tokenizer. The *plain* characters are those on which all of
them agree; a test compares them for every plain character. A text with any other character is
scored on its own, by these libraries themselves (`features.recompute_row`).
"""

from __future__ import annotations

import functools
import unicodedata
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Bytes = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.int64]

SPACE, LETTER, NUMBER = 1, 2, 4  # none of them: a symbol
KIND = SPACE | LETTER | NUMBER  # as GPT-2's regular expression divides characters
WORD = 8  # \w of Python's `re`
NOT_PLAIN = 16  # not plain

_PADDING = 24  # zero bytes after the last text, so that reading ahead needs no bounds check
_ROOM = 0x110000
#: Pictures and symbols beyond the first plane, most of them younger than the stable characters.
_EMOJI = range(0x1F000, 0x1FB00)
#: Their lower case is, or holds, an ASCII letter.
_LOWER_TO_ASCII = "\u0130\u212a"


def _class_of(character: str) -> int:
    category = unicodedata.category(character)
    kind = {"L": LETTER, "N": NUMBER}.get(category[0], 0)
    found = SPACE if character.isspace() else kind
    if character.isalnum() or character == "_":
        found |= WORD
    return found if is_plain(character) else found | NOT_PLAIN


def is_plain(character: str) -> bool:
    """Whether all libraries agree about a character.

    These are the characters that had their present category in Unicode 3.2 already, so that no
    library is too old or too new to know them, and pictures. Control characters are left out, and
    so are digits outside ASCII, in which lists are rarely numbered.
    """
    if character in "\t\n\v\f\r":
        return True
    category = unicodedata.category(character)
    if category in ("Cc", "Co", "Cs") or character in _LOWER_TO_ASCII:
        return False
    if category == "Nd" and not character.isascii():
        return False
    if ord(character) in _EMOJI:
        return category in ("So", "Sk", "Cn")
    return category != "Cn" and unicodedata.ucd_3_2_0.category(character) == category


@functools.cache
def classes() -> Bytes:
    """The class of every code point. Those far out (rare scripts, private use) are not plain."""
    table = np.full(_ROOM, NOT_PLAIN, dtype=np.uint8)
    for code in (*range(0xD800), *range(0xF900, 0x10000), *_EMOJI):
        table[code] = _class_of(chr(code))
    return table


@functools.cache
def _of_ascii() -> Bytes:
    return np.resize(classes()[:128], 256)


@dataclass(frozen=True)
class Texts:
    """Concatenated texts.

    Attributes:
        bytes: their UTF-8, followed by a few zero bytes.
        starts: the position where each text starts, and the one where the last text ends.
    """

    bytes: Bytes
    starts: Positions

    @classmethod
    def of(cls, array: pa.StringArray) -> Texts:
        """The texts of an array without nulls."""
        starts, first = offsets_of(array)
        data = np.zeros((starts[-1] + 2 * _PADDING) // 8 * 8, dtype=np.uint8)
        if starts[-1]:
            data[: starts[-1]] = np.frombuffer(array.buffers()[2], np.uint8, starts[-1], first)
        return cls(data, starts)

    @property
    def number(self) -> int:
        """Number of texts."""
        return len(self.starts) - 1

    @property
    def size(self) -> int:
        """Bytes, without the padding."""
        return int(self.starts[-1])

    @cached_property
    def is_ascii(self) -> bool:
        """Whether all characters of all texts are ASCII."""
        return int(self.bytes.max()) < 0x80

    @cached_property
    def classes(self) -> Bytes:
        """The class of each byte's character (of the padding: that of a zero byte)."""
        found = np.take(_of_ascii(), self.bytes)
        if self.is_ascii:
            return found
        first = np.flatnonzero(self.bytes >= 0xC0)
        length = 2 + (self.bytes[first] >= 0xE0) + (self.bytes[first] >= 0xF0)
        code = (self.bytes[first] & (0xFF >> (length + 1))).astype(np.int64)
        for byte in (1, 2, 3):
            more = length > byte
            code[more] = code[more] << 6 | (self.bytes[first[more] + byte] & 0x3F)
        of_first = classes()[code]
        for byte in range(4):
            more = length > byte
            found[first[more] + byte] = of_first[more]
        return found

    @cached_property
    def is_space(self) -> Flags:
        """Which bytes belong to white space."""
        return (self.classes & SPACE).view(bool)

    def run_starts(self, flags: Flags) -> Positions:
        """Positions where runs of true flags start; a run ends with its text."""
        flags = flags[: self.size]
        starts = flags.copy()
        starts[1:] &= ~flags[:-1]
        at = self.starts[:-1][np.diff(self.starts) > 0]
        starts[at] = flags[at]
        return np.flatnonzero(starts)

    def text_index(self, at: Positions) -> Positions:
        """The index of the text that each position is in."""
        return np.searchsorted(self.starts, at, side="right") - 1

    def where(self, at: Positions, length: int = 1) -> Flags:
        """Which texts hold one of the positions and ``length`` bytes from there."""
        text = self.text_index(at)
        found = np.zeros(self.number, dtype=bool)
        found[text[at + length <= self.starts[text + 1]]] = True
        return found

    def at(self, character: str) -> Positions:
        """Positions of an ASCII character."""
        return np.flatnonzero(self.bytes[: self.size] == ord(character))

    def not_plain(self) -> Flags:
        """Which texts hold a character that is not plain."""
        return self.where(np.flatnonzero(self.classes[: self.size] & NOT_PLAIN))


def offsets_of(texts: pa.StringArray) -> tuple[Positions, int]:
    """Offsets of an array of strings counted from 0, and where in its buffer they begin."""
    if not len(texts):
        return np.zeros(1, dtype=np.int64), 0
    kind = np.dtype(np.int64 if pa.types.is_large_string(texts.type) else np.int32)
    at = texts.offset * kind.itemsize
    offsets = np.frombuffer(texts.buffers()[1], kind, len(texts) + 1, at).astype(np.int64)
    return offsets - offsets[0], int(offsets[0])


def sums_between(counts_up_to: Positions, edges: Positions) -> Positions:
    """Sums between edges, from running totals; before the first element these are 0."""
    return np.diff(np.append(0, counts_up_to)[edges])
