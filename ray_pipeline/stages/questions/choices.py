"""Multiple choice in plain text: finding the options, and the option that an answer means.

Pure functions on strings; the stages `match-choices`, `multiple-choice` and `fill-in-blank` use
them.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz import fuzz

LETTERS = string.ascii_uppercase


@dataclass(frozen=True)
class MultipleChoice:
    """A multiple-choice question, split."""

    stem: str
    options: tuple[str, ...]
    #: Where the options begin in the text: ``text[:start]`` is the stem.
    start: int


@dataclass(frozen=True)
class _Notation:
    """One way to mark options with letters, and how reliable it is."""

    marker: re.Pattern[str]
    #: ``A.`` also ends sentences and abbreviations, so it must look like a list to count as one.
    weak: bool = False


def _notations() -> tuple[_Notation, ...]:
    found = []
    for letter in ("[A-Z]", "[a-z]"):
        found += [
            _Notation(re.compile(rf"\(\s?({letter})\s?\)")),
            _Notation(re.compile(rf"\[\s?({letter})\s?\]")),
            _Notation(re.compile(rf"(?<!\S)({letter})\)(?=\s)")),
            _Notation(re.compile(rf"(?<!\S)({letter})[.:](?=\s)"), weak=True),
        ]
    return tuple(found)


_NOTATIONS = _notations()
#: Cheap test that a text may hold options at all: some "A" or "a" followed by a closing sign.
_MAY_HAVE_OPTIONS = re.compile(r"[Aa]\s?[)\].:]")
_ENDS_WITH_INITIAL = re.compile(r"(?:^|[\s.])[A-Za-z]\.$")
_CONJUNCTIONS = frozenset({"and", "or", "to", "vs", "vs.", "&", "/", "-", "nor", "with"})
_SEPARATOR_AT_END = re.compile(r"\s*[,;|](?:\s*(?:or|and))?\s*$")


def parse(text: str) -> MultipleChoice | None:
    """Split a multiple-choice question into stem and options; None if it has no options.

    Understands ``(A) x (B) y``, ``[A] x [B] y``, ``A) x B) y`` and ``A. x B. y`` (also ``A: x``),
    in upper or lower case, on one line or several. The letters must follow each other from A, at
    least two of them, each with some text.
    """
    if not _MAY_HAVE_OPTIONS.search(text):
        return None
    for notation in _NOTATIONS:
        found = _parse_as(text, notation)
        if found is not None:
            return found
    return None


def _parse_as(text: str, notation: _Notation) -> MultipleChoice | None:
    markers = [(m.start(), m.end(), m[1].upper()) for m in notation.marker.finditer(text)]
    chain = _last_chain(markers)
    if chain is None:
        return None
    start = chain[0][0]
    ends = [marker[0] for marker in chain[1:]] + [len(text)]
    options = tuple(
        _tidy_option(text[begin:end]) for (_, begin, _), end in zip(chain, ends, strict=True)
    )
    stem = text[:start].strip()
    if not stem or not all(options):
        return None
    if any(option.lower() in _CONJUNCTIONS for option in options):
        return None  # "vitamins (A) and (B) dissolve in ..."
    if notation.weak and not _looks_like_list(text, chain):
        return None
    return MultipleChoice(stem, options, start)


def _last_chain(markers: list[tuple[int, int, str]]) -> list[tuple[int, int, str]] | None:
    """The last run A, B, C... of markers; None when letters are missing from it."""
    begins = [i for i, marker in enumerate(markers) if marker[2] == "A"]
    if not begins:
        return None
    chain = [markers[begins[-1]]]
    skipped: list[str] = []
    for marker in markers[begins[-1] + 1 :]:
        if LETTERS.index(marker[2]) == len(chain):
            chain.append(marker)
            skipped.clear()
        else:
            skipped.append(marker[2])
    # "(A) x (B) y (D) z" lacks an option, "Back to the Future (I)" is part of one.
    gap = any(0 < LETTERS.index(letter) - len(chain) <= 3 for letter in skipped)
    return chain if len(chain) >= 2 and not gap else None


def is_malformed(text: str) -> bool:
    """Whether a text has options in brackets that cannot be told apart (one empty or missing)."""
    if parse(text) is not None:
        return False
    letters = {m[1].upper() for m in _BRACKETED.finditer(text)}
    return {"A", "B"} <= letters and bool(letters & {"C", "D"})


_BRACKETED = re.compile(r"[(\[]\s?([A-Da-d])\s?[)\]]")


def _tidy_option(text: str) -> str:
    return _SEPARATOR_AT_END.sub("", " ".join(text.split()))


def _looks_like_list(text: str, chain: list[tuple[int, int, str]]) -> bool:
    before = text[: chain[0][0]]
    if _ENDS_WITH_INITIAL.search(before.rstrip()[-3:]):  # "U. S. A. Both B. ..."
        return False
    return _ends_sentence(before) or len(chain) >= 3


def _ends_sentence(text: str) -> bool:
    """Whether what follows a text, which does not end with an initial, begins something new."""
    words = text.rstrip()
    return not words or "\n" in text[len(words) :] or words[-1] in "?!:;,_\"')."


def refers_to_options(question: str) -> bool:
    """Whether a question makes sense only with its options in view."""
    if _REFERS_TO_OPTIONS.search(question):
        return True
    # "These are planets; which is the largest?"
    for sentence in question.split("?"):
        these = _THESE.search(sentence)
        if these is not None and _WHICH.search(sentence, these.end()):
            return True
    return False


_THESE = re.compile(r"\bthese\b", re.IGNORECASE)
_WHICH = re.compile(r"\bwhich\b", re.IGNORECASE)
# "Which of these", "one of the following", "all are X except one", "the odd one out".
_REFERS_TO_OPTIONS = re.compile(
    r"\b(?:of|are|is|from|among|between)\s+(?:these|those|the\s+following|the\s+below)\b"
    r"|\bthe\s+following\b(?!\s+(?:year|month|week|day|season|century))"
    r"|\bof\s+the\s+(?:two|three|four|five|above|options|choices|answers)\b"
    r"|\b(?:options?|choices|alternatives)\s+(?:above|below|given|listed)\b"
    r"|\b(?:these|given|listed|following)\s+(?:options|choices|answers|alternatives)\b"
    r"|\bexcept\s+(?:for\s+)?(?:one|which|this)\b|\bodd\s+(?:one|man|name)\b"
    r"|\bwhich\s+one\b|^\s*which\s*\?|\([A-Ha-h]\)",
    re.IGNORECASE,
)

_TRUTH_WORDS = {
    **dict.fromkeys(("true", "t", "correct", "right"), "true"),
    **dict.fromkeys(("false", "f", "incorrect", "wrong"), "false"),
}


def is_true_false(options: Sequence[str]) -> bool:
    """Whether the options are True/False or Yes/No (either order)."""
    return {normalise(option) for option in options} in ({"true", "false"}, {"yes", "no"})


def normalise(text: str) -> str:
    """Normalise a text to compare answers: ignores case, white space and outer punctuation."""
    folded = " ".join(text.casefold().split())
    # Signs and brackets of numbers stay: "-5" is not "5", "10%" is not "10".
    return folded.strip(" .,;:!?\"'") or folded


# Runs of white space are possessive (``\s*+``): given back one by one they would be tried in every
# combination, and an answer of a thousand blanks would take seconds.
_LETTER_ANSWER = re.compile(
    r"^\s*+(?:(?:the\s++)?(?:correct\s++)?(?:answer|option|choice)\s*+(?:is\b)?\s*+[:=-]?\s*+)?"
    r"(?P<open>[(\[])?\s?(?P<letter>[A-Za-z])\s?(?P<close>[)\].:])?"
    r"(?:\s++-\s++|\s++|$)(?P<rest>.*)$",
    re.IGNORECASE | re.DOTALL,
)


def match_letter(answer: str, options: Sequence[str]) -> int | None:
    """Index of the option that the answer names by its letter: ``B``, ``(b)``, ``B. Paris``.

    Text after the letter must agree with that option: ``A. Lincoln`` is not option A unless
    option A is Lincoln.
    """
    found = _LETTER_ANSWER.match(answer)
    if found is None:
        return None
    index = LETTERS.index(found["letter"].upper())
    rest = normalise(found["rest"])
    if index >= len(options):
        return None
    if not rest:
        return index
    if not found["close"]:  # "a dog" is an article, not a letter
        return None
    return index if _similar(rest, normalise(options[index])) >= 90 else None


def match_text(answer: str, options: Sequence[str]) -> int | None:
    """Index of the option that equals the answer except for case and punctuation."""
    for same in (str.strip, normalise):
        for index, option in enumerate(options):
            if same(option) == same(answer):
                return index
    truth = [_TRUTH_WORDS.get(normalise(option)) for option in options]
    meant = _TRUTH_WORDS.get(normalise(answer))
    return truth.index(meant) if meant and is_true_false(options) and meant in truth else None


def match_fuzzy(answer: str, options: Sequence[str], ratio: float) -> tuple[int, float] | None:
    """Index and ratio of the only option that differs from the answer in spelling or word order.

    Numbers must be the same: "1945" and "1946" are alike to a string metric, and nothing else.
    """
    scores = [_similar(normalise(answer), normalise(option)) for option in options]
    best = max(scores)
    if best < ratio or scores.count(best) > 1:
        return None
    return scores.index(best), best


def _similar(one: str, other: str) -> float:
    if _numbers(one) != _numbers(other):
        return 0.0
    return float(fuzz.token_sort_ratio(one, other))


def _numbers(text: str) -> list[str]:
    # Roman numerals count as numbers: Charles I is not Charles II.
    return sorted(re.findall(r"\d+(?:[.,]\d+)*|\b[ivx]+\b", text))


_NONE_OF = re.compile(
    r"^(?:none|neither)(?:\s+of\s+(?:the\s+)?(?:these|those|them|above|others?|options|choices))?\b"
)
_ALL_OF = re.compile(
    r"^(?:all|both|any|either)(?:\s+of)?(?:\s+(?:the|these|those|them))?"
    r"(?:\s+(?:above|answers|options|choices|two|three|four|others))*(?:\s+are\s+(?:true|correct))?$"
)
_LETTERS_OF = re.compile(
    r"^(?:both\s+)?\(?([a-h])\)?((?:\s*,\s*\(?[a-h]\)?)*)\s*(?:,?\s*and|&|\+)\s*\(?([a-h])\)?$"
)


def is_none_of_the_options(option: str) -> bool:
    """Whether an option says that no other one is right ("None of these")."""
    text = normalise(option)
    found = _NONE_OF.match(text)
    # "None of the emperors" and "None is better" are answers; "None" alone refers to the others.
    return found is not None and (" of " in found[0] or found[0] == text)


def spell_out(option: str, options: Sequence[str]) -> str | None:
    """What an option that refers to others means: "All of these" → "cats, dogs and bats".

    Also "Both A and B". None when the option speaks for itself.
    """
    text = normalise(option)
    others = [o for o in options if o != option and not is_none_of_the_options(o)]
    if _ALL_OF.match(text) and text != "any":
        others = [o for o in others if not _ALL_OF.match(normalise(o))]
        return _enumeration(others) if len(others) >= 2 else None
    found = _LETTERS_OF.match(text)
    if found is None:
        return None
    letters = [found[1], *re.findall(r"[a-h]", found[2]), found[3]]
    indexes = [LETTERS.lower().index(letter) for letter in letters]
    if max(indexes) >= len(options) or any(options[i] == option for i in indexes):
        return None
    return _enumeration([options[i] for i in indexes])


def _enumeration(items: Sequence[str]) -> str:
    items = [item.rstrip(" .") or item for item in items]
    return f"{', '.join(items[:-1])} and {items[-1]}"
