"""Unicode normalisation in linear time."""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from typing import Literal

Form = Literal["NFC", "NFD", "NFKC", "NFKD"]

#: Marks in a row after one letter. Unicode's Stream-Safe Text Format (UAX #15) allows 30.
MOST_MARKS = 1000


def normalise(form: Form, text: str) -> str:
    """`unicodedata.normalize`, without the marks after a letter from `MOST_MARKS` on.

    Normalisation puts combining marks in order by insertion, which takes the square of their
    number: minutes for 100 kB of them after one letter. No language has more than a handful.
    """
    if len(text) > MOST_MARKS and not text.isascii():
        text = _too_many_marks().sub(r"\1", text)
    return unicodedata.normalize(form, text)


@functools.cache
def _too_many_marks() -> re.Pattern[str]:
    combining = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.combining(c))
    return re.compile(f"([{combining}]{{{MOST_MARKS}}})[{combining}]+")
