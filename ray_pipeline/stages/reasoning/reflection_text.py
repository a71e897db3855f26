"""What a reflection's text may not be, and what of it a blind reader may see."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ray_pipeline.stages.text.keys import normalised

#: Phrases by which a text shows that its writer knew the label, or that it corrects another one.
_TOLD = re.compile(
    r"\b(?:true|correct|gold|given|provided|actual|right|expected|reference|real)\s+"
    r"(?:label|answer|verdict|classification|relation|relationship)\b"
    r"|\b(?:was|were|am|been|is|are|being)\s+(?:told|given\s+the|informed|instructed)\b"
    r"|\b(?:ground[\s-]truth|annotat(?:ors?|ions?)|mislabell?ed)\b"
    r"|\b(?:the\s+)?(?:first|previous|earlier|original|initial|prior)\s+"
    r"(?:reasoning|answer|prediction|label|attempt|model|thoughts?|analysis)\b"
    r"|\baccording\s+to\s+the\s+label\b|\blabel(?:l?ed)?\s+as\b|\bas\s+(?:the\s+)?label\b",
    re.IGNORECASE,
)
#: Words that say a label without naming it, by the usual names of labels.
_WORDS_OF = {
    "entailment": r"entail\w*|implie[sd]|implies|implication",
    "contradiction": r"contradict\w*",
    "neutral": r"neutral\w*|undetermined|inconclusive",
}
_VERDICT = re.compile(
    r"^\W*(?:so|therefore|thus|hence|in\s+conclusion|consequently|overall|conclusion|verdict|label"
    r"|answer)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_WORD = re.compile(r"\w+")


def mentions_being_told(text: str) -> str | None:
    """The words by which a text shows that its writer was told the label; None if it does not."""
    found = _TOLD.search(text)
    return None if found is None else found.group()


def similarity(text: str, other: str, words: int = 3) -> float:
    """The share of the shorter text's word n-grams that the other one has, too; 0 to 1.

    The shorter text: a first reasoning with a sentence added is still the first reasoning.
    """
    grams = [_grams(normalised(each), words) for each in (text, other)]
    if not all(grams):
        return float(normalised(text) == normalised(other))
    smaller, larger = sorted(grams, key=len)
    return len(smaller & larger) / len(smaller)


def _grams(text: str, words: int) -> set[tuple[str, ...]]:
    found = _WORD.findall(text)
    number = min(words, len(found))
    return {tuple(found[at : at + number]) for at in range(len(found) - number + 1)} - {()}


def without_labels(reasoning: str, labels: Sequence[str]) -> str:
    """A reasoning without its verdict: what a blind reader is shown.

    Sentences that begin as a verdict ("Therefore", "Label:") and sentences that name a label, in
    any form, are left out. Nothing may be left.
    """
    named = "|".join(_WORDS_OF.get(label, re.escape(label)) for label in labels)
    label_word = re.compile(rf"\b(?:{named})\b", re.IGNORECASE)
    kept = [
        sentence.strip()
        for sentence in _SENTENCE.split(reasoning)
        if sentence.strip() and not _VERDICT.match(sentence) and not label_word.search(sentence)
    ]
    return " ".join(kept)
