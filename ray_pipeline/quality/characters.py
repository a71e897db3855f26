"""Classes of characters, and a batch of texts as bytes with the class of each byte.

What a word, a space or a letter is, four parties decide: `str.split`, Python's `re`, textstat
(which uses both), and the regular expression of a tokenizer. The *plain* characters are those on
which all of them agree; a test asks each of them about every plain character. A text with any
other character is scored on its own, by those parties themselves (`row_by_row`).
"""

from __future__ import annotations

import functools
import unicodedata
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Bytes = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.int64]

SPACE, LETTER, NUMBER = 1, 2, 4  # none of them: a symbol
KIND = SPACE | LETTER | NUMBER  # as GPT-2's regular expression divides characters
WORD = 8  # \w of Python's `re`
STRANGE = 16  # not plain

_PADDING = 8  # zero bytes behind the last text: looking ahead needs no care
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
    return found if is_plain(character) else found | STRANGE


def is_plain(character: str) -> bool:
    """Whether everyone agrees about a character.

    These are the characters that had their present category in Unicode 3.2 already, so that no
    library is too old or too new to know them, and pictures. Control characters are left out, and
    so are digits of other scripts than ours, in which lists are rarely numbered.
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
    """The class of every code point. Those far out (rare scripts, private use) are strange."""
    table = np.full(_ROOM, STRANGE, dtype=np.uint8)
    for code in (*range(0xD800), *range(0xF900, 0x10000), *_EMOJI):
        table[code] = _class_of(chr(code))
    return table


@functools.cache
def _lower() -> Bytes:
    table = np.arange(256, dtype=np.uint8)
    table[ord("A") : ord("Z") + 1] += 32
    return table


@dataclass(frozen=True)
class Texts:
    """Instructions and responses, each pair joined by a space, one behind the other.

    Attributes:
        joined: the texts.
        bytes: their UTF-8, followed by a few zero bytes.
        starts: where each row starts, and where the last one ends.
        middles: where each row's joining space is.
    """

    joined: pa.StringArray
    bytes: Bytes
    starts: Positions
    middles: Positions

    @classmethod
    def of(cls, instructions: pa.StringArray, responses: pa.StringArray) -> Texts:
        """Join two arrays without nulls."""
        joined = pc.binary_join_element_wise(instructions, responses, " ")
        starts = offsets_of(joined)
        lengths = np.diff(offsets_of(instructions))
        data = np.zeros(starts[-1] + _PADDING, dtype=np.uint8)
        if len(joined):
            data[:-_PADDING] = np.frombuffer(joined.buffers()[2], np.uint8, starts[-1])
        return cls(joined, data, starts, starts[:-1] + lengths)

    @property
    def number(self) -> int:
        """Rows."""
        return len(self.middles)

    @property
    def size(self) -> int:
        """Bytes, without the padding."""
        return int(self.starts[-1])

    @cached_property
    def edges(self) -> Positions:
        """Starts of instructions and responses in turn (responses with the joining space)."""
        edges = np.empty(2 * self.number + 1, dtype=np.int64)
        edges[0::2] = self.starts
        edges[1::2] = self.middles
        return edges

    @cached_property
    def is_ascii(self) -> bool:
        """Whether no text has another character."""
        return not self.size or int(self.bytes.max()) < 0x80

    @cached_property
    def classes(self) -> Bytes:
        """The class of each byte's character (of the padding: that of a zero byte)."""
        found = classes()[:256][self.bytes]
        if self.is_ascii:
            return found
        first = np.flatnonzero(self.bytes >= 0xC0)
        length = 2 + (self.bytes[first] >= 0xE0) + (self.bytes[first] >= 0xF0)
        code = self.bytes[first] & (0xFF >> (length + 1)).astype(np.uint8)
        code = code.astype(np.int64)
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
        """Which bytes are of white space."""
        return (self.classes & SPACE).astype(bool)

    @cached_property
    def lower(self) -> Bytes:
        """The bytes with ASCII letters in lower case."""
        return _lower()[self.bytes]

    @cached_property
    def in_instruction(self) -> Flags:
        """Which bytes are of an instruction."""
        flags = np.zeros(len(self.bytes), dtype=bool)
        flags[: self.size] = np.repeat(np.arange(2 * self.number) % 2 == 0, np.diff(self.edges))
        return flags

    def first_of_runs(self, flags: Flags) -> Positions:
        """Where runs of true flags start; no run goes over the start of a row."""
        starts = flags[: self.size].copy()
        starts[1:] &= ~flags[: self.size - 1]
        at = self.starts[:-1]
        starts[at] = flags[at]
        return np.flatnonzero(starts)

    def strange_rows(self) -> Flags:
        """Which rows hold a character that is not plain."""
        found = np.zeros(self.number, dtype=bool)
        at = np.flatnonzero(self.classes[: self.size] & STRANGE)
        found[np.searchsorted(self.starts, at, side="right") - 1] = True
        return found


def offsets_of(texts: pa.Array) -> Positions:
    """Offsets of an array of strings, from 0 on, as int64."""
    if not len(texts):
        return np.zeros(1, dtype=np.int64)
    kind = np.dtype(np.int64 if pa.types.is_large_string(texts.type) else np.int32)
    at = texts.offset * kind.itemsize
    offsets = np.frombuffer(texts.buffers()[1], kind, len(texts) + 1, at).astype(np.int64)
    return offsets - offsets[0]


def cut(data: Bytes, offsets: Positions) -> pa.Array:
    """The pieces of ``data`` between offsets, as an array of binaries; nothing is copied."""
    ends = np.append(offsets, len(data))
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(data)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(offsets), buffers)
