"""Which keywords and marks the texts of a batch hold."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np

from ray_pipeline.quality.characters import Flags, Positions, Texts

_LINE_END, _DASH, _STOP, _ASK = (ord(c) for c in "\n-.?")


class Patterns:
    """Searches the instructions and responses of a batch. Every answer has a flag a row."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        # A response without the space in front of it: where it starts, where it ends.
        self._begins = texts.edges[:-1].copy()
        self._begins[1::2] += 1
        self._ends = texts.edges[1:]

    def in_instruction(self, word: str) -> Flags:
        """Which instructions hold a word, in whatever case."""
        return self._found(word)[0::2]

    def in_response(self, word: str) -> Flags:
        """Which responses hold a word, in whatever case."""
        return self._found(word)[1::2]

    def in_either(self, word: str) -> Flags:
        """Which rows hold a word in instruction or response, in whatever case."""
        found = self._found(word)
        return found[0::2] | found[1::2]

    def asks(self) -> Flags:
        """Which instructions hold a question mark."""
        return self._where(self._at(_ASK), 1)[0::2]

    def paragraphs(self) -> Flags:
        """Which responses hold an empty line."""
        data, at = self._texts.bytes, self._at(_LINE_END)
        return self._where(at[data[at + 1] == _LINE_END], 2)[1::2]

    def lists(self) -> Flags:
        r"""Which responses match ``^\d+\.|\-\s``: a line "1.", or a dash before white space."""
        dashes = self._at(_DASH)
        dashes = dashes[self._texts.is_space[dashes + 1]]
        return (self._where(dashes, 2) | self._numbered())[1::2]

    def code(self) -> Flags:
        """Which responses hold a code fence or Python's ``def``."""
        data = self._texts.bytes
        fences = self._places(b"```")
        functions = self._places(b"def ")
        # `_places` looks at lower case: DEF is no code.
        for i, byte in enumerate(b"def"):
            functions = functions[data[functions + i] == byte]
        return (self._where(fences, 3) | self._where(functions, 4))[1::2]

    def _numbered(self) -> Flags:
        data = self._texts.bytes
        digit = (data >= ord("0")) & (data <= ord("9"))
        stops = self._at(_STOP)
        stops = stops[(stops > 0) & digit[stops - 1]]
        if not len(stops):
            return np.zeros(len(self._ends), dtype=bool)
        runs = self._texts.first_of_runs(digit)
        first = runs[np.searchsorted(runs, stops, side="right") - 1]
        part = self._part(stops)
        lines = (first == self._begins[part]) | (data[first - 1] == _LINE_END)
        return self._where(stops[lines & (first >= self._begins[part])], 1)

    def _found(self, word: str) -> Flags:
        text = word.encode()
        return self._where(self._places(text), len(text))

    def _places(self, text: bytes) -> Positions:
        """Where a text of three bytes or more is, in lower case; it may run over an end."""
        if len(text) == 3:
            at = np.flatnonzero(self._threes == int.from_bytes(text, "little"))
        else:
            at = np.flatnonzero(self._fours == int.from_bytes(text[:4], "little"))
        for i in range(4, len(text)):
            at = at[self._lower[at + i] == text[i]]
        return at

    def _at(self, byte: int) -> Positions:
        return np.flatnonzero(self._texts.bytes[: self._texts.size] == byte)

    def _part(self, at: Positions) -> Positions:
        """In which instruction or response each place is."""
        return np.searchsorted(self._texts.edges, at, side="right") - 1

    def _where(self, at: Positions, length: int) -> Flags:
        """Which instructions and responses hold one of the places, to the last byte."""
        part = self._part(at)
        found = np.zeros(len(self._ends), dtype=bool)
        found[part[at + length <= self._ends[part]]] = True
        return found

    @cached_property
    def _lower(self) -> np.ndarray:
        return np.append(self._texts.lower, np.zeros(16, dtype=np.uint8))

    @cached_property
    def _fours(self) -> np.ndarray:
        """Each byte with the three behind it, as one number."""
        size = self._texts.size
        groups = size // 4 + 1
        found = np.empty(4 * groups, dtype=np.uint32)
        for shift in range(4):
            found[shift::4] = np.frombuffer(self._lower, np.uint32, groups, offset=shift)
        return found[:size]

    @cached_property
    def _threes(self) -> np.ndarray:
        return self._fours & 0xFFFFFF


def count(flags: Iterable[Flags]) -> Positions:
    """How many of several flags each row has."""
    return np.sum(list(flags), axis=0, dtype=np.int64)
