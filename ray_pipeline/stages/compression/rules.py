"""Deletions of whole words by rule: articles, filler, stop words.

Each rule names the words that may go; protected words never do. The order of `RULES` is that of
growing loss.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Literal

from ray_pipeline.stages.compression.words import Word, word_set

Rule = Literal["articles", "filler", "stop_words"]

_ARTICLES = frozenset(("a", "an", "the"))
#: Verbs that a prompt gives its orders with.
ORDERS = word_set(
    "give tell write list name create make explain describe find identify classify summarize",
    "summarise generate provide suggest compare define extract show help share recommend",
    "translate rewrite convert answer calculate compute draft compose outline think come",
    "elaborate discuss teach",
)
_ORDERS = f"(?:{'|'.join(sorted(ORDERS))})"
_ASKING = r"(?:what|which|who|whom|whose|when|where|why|how)"
#: Matched on the words themselves, in lower case and joined by single spaces.
_FILLER = [
    re.compile(pattern)
    for pattern in (
        r"\b(?:please|kindly)\b",
        r"\bin order(?= to\b)",
        r"\b(?:really|very|just|basically|actually|simply|literally|truly|quite)\b",
        r"\b(?:as you know|of course|by the way|needless to say|if possible|thank you|thanks)\b",
    )
]
#: The same, where a request may begin: "Where can you find it" and "can it give me a shock" do not.
_REQUESTS = [
    re.compile(pattern)
    for pattern in (
        r"\b(?:can|could|would|will) you (?:please |kindly |just )?(?!tell (?!me\b))"
        rf"(?={_ORDERS}\b)",
        rf"\b(?:i would|i'd) (?:really )?like (?:you )?to (?={_ORDERS}\b)",
        rf"\b(?:i want|i need) you to (?={_ORDERS}\b)",
        rf"\b(?:i would like to know|i'd like to know|i want to know|tell me) (?={_ASKING}\b)",
        rf"\b(?:do you know|can you tell me|could you tell me) (?={_ASKING}\b)",
    )
]
#: The same; the verb stays.
_TO_ME = re.compile(r"\b(?:give|tell|write|provide|show|suggest) me(?: with)?\b")
#: Words that a request may follow in the same sentence.
_BEFORE_REQUEST = frozenset(["please", "kindly", "just", "and", "then", "to", "you"])
_STOP_WORDS = word_set(
    "is are was were am be been being do does did of that there some has have had will would",
)

#: Words after which "of" says what they are about: "which of these".
_TAKE_OF = word_set(
    "which each one all both any some most many few several none either neither out because",
    "instead type types kind kinds",
)
#: Words of a prompt up to which "is" stays.
_SHORT = 5
_COPULAS = frozenset(["is", "are", "was", "were", "am"])


def deletable(rules: Sequence[Rule], words: Sequence[Word], protected: set[int]) -> list[int]:
    """The places of the words that rules delete, in order."""
    found: set[int] = set()
    for rule in rules:
        found.update(RULES[rule](words))
    return sorted(found - protected)


def _articles(words: Sequence[Word]) -> set[int]:
    found = set()
    for place, word in enumerate(words):
        follower = words[place + 1] if place + 1 < len(words) else None
        if word.lower not in _ARTICLES or word.lead or word.tail or follower is None:
            continue
        # At the end of a line it is a letter or a slip of the pen; so are "A." and "vitamin A".
        if follower.starts_sentence or not follower.core:
            continue
        if word.core.isupper() and not word.starts_sentence:
            continue
        if follower.core[:1].isupper() and word.core == "The":  # "The Hague"
            continue
        found.add(place)
    return found


def _filler(words: Sequence[Word]) -> set[int]:
    joined, starts = [], []
    length = 0
    for word in words:
        text = word.lower
        joined.append(text)
        starts.append(length)
        length += len(text) + 1
    text = " ".join(joined)
    found: set[int] = set()
    for pattern in _FILLER:
        for match in pattern.finditer(text):
            found.update(_between(starts, match.start(), match.end()))
    for pattern in (*_REQUESTS, _TO_ME):
        for match in pattern.finditer(text):
            places = _between(starts, match.start(), match.end())
            if _may_begin_request(words, places[0]):
                found.update(places[1:] if pattern is _TO_ME else places)
    return {place for place in found if words[place].core}


def _may_begin_request(words: Sequence[Word], place: int) -> bool:
    before = words[place - 1] if place else None
    return (
        before is None
        or words[place].starts_sentence
        or bool(before.tail)
        or before.lower in _BEFORE_REQUEST
    )


def _between(starts: Sequence[int], start: int, end: int) -> range:
    return range(bisect_left(starts, start), bisect_left(starts, end))


def _stop_words(words: Sequence[Word]) -> set[int]:
    # "What is a tide?" would become "What tide?".
    is_short = len(words) <= _SHORT
    return {
        place
        for place, word in enumerate(words)
        if word.lower in _STOP_WORDS
        and not word.lead
        and not word.tail
        and not (word.lower == "of" and place and words[place - 1].lower in _TAKE_OF)
        and not (word.lower == "do" and place and words[place - 1].lower == "to")
        and not (is_short and word.lower in _COPULAS)
    }


RULES: dict[Rule, Callable[[Sequence[Word]], set[int]]] = {
    "articles": _articles,
    "filler": _filler,
    "stop_words": _stop_words,
}
