"""What drawn completions of one instruction are worth, without a judge.

All measures lie between 0 and 1, more is better, and an empty completion gets 0. They are made to
compare models on the same instructions, and each can be fooled alone: read them together, beside
the values of the references.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise

_WORD = re.compile(r"\w+")
#: Letters of a content word, at least.
_CONTENT = 4
#: English words of that length that say nothing of what a text is about.
_EMPTY = frozenset(
    _WORD.findall(
        "about above after again against also been before being below between both could does "
        "doing down during each every from further have having here into just more most much "
        "must once only other over please same shall should some such than that their them then "
        "there these they this those through under until very were what when where which while "
        "will with would your following given make list write explain describe provide create "
        "give name tell"
    )
)

Pairs = frozenset[tuple[str, str]]


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores in lower case."""
    return _WORD.findall(text.lower())


def fresh(text: str, length: int = 4) -> float:
    """1 − the share of 4-grams of words that stood in the text before.

    A text too short for two of them repeats nothing.
    """
    said = words(text)
    if not said:
        return 0.0
    grams = [tuple(said[at : at + length]) for at in range(len(said) - length + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def word_pairs(texts: Iterable[str]) -> Pairs:
    """All pairs of neighbouring words in texts."""
    return frozenset(pair for text in texts for pair in pairwise(words(text)))


def known_pairs(text: str, known: Pairs) -> float:
    """The share of a text's pairs of neighbouring words that people have written.

    A text of one word has none: it gets 1.
    """
    said = words(text)
    if not said:
        return 0.0
    pairs = list(pairwise(said))
    return sum(pair in known for pair in pairs) / len(pairs) if pairs else 1.0


def coherence(text: str, known: Pairs) -> float:
    """Share of new 4-grams times share of known word pairs.

    The first falls where a model goes in circles, the second where it throws words together: the
    two ways in which small models fail. It says nothing of sense beyond neighbouring words.
    """
    return fresh(text) * known_pairs(text, known)


def distinct(texts: Sequence[str], length: int) -> float:
    """Different n-grams of all texts together, as a share of all (Li et al. 2016, distinct-n)."""
    grams = [
        tuple(said[at : at + length])
        for said in map(words, texts)
        for at in range(len(said) - length + 1)
    ]
    return len(set(grams)) / len(grams) if grams else 0.0


def diversity(texts: Sequence[str]) -> float:
    """How much completions of one instruction differ: the mean of 1 − ROUGE-L over their pairs.

    Empty ones are equal to each other, and as far as can be from all others. One alone has no
    pairs: 0.
    """
    from ray_pipeline.evaluate.text import rouge_l

    pairs = list(combinations(texts, 2))
    if not pairs:
        return 0.0
    alike = rouge_l([a for a, _ in pairs], [b for _, b in pairs])
    apart = [
        0.0 if a.strip() == b.strip() else 1 - likeness
        for (a, b), likeness in zip(pairs, alike, strict=True)
    ]
    return math.fsum(apart) / len(apart)


def content_words(text: str) -> frozenset[str]:
    """Different words of four letters or more that say what a text is about, without a plural s."""
    return frozenset(
        word.removesuffix("s")
        for word in words(text)
        if len(word) >= _CONTENT and word not in _EMPTY
    )


def follows(instruction: str, completion: str) -> float | None:
    """The share of an instruction's content words that its completion takes up.

    A stand-in for following it: an answer to another question does not take them up. It cannot
    tell an answer from an echo. None: the instruction has no content words.
    """
    asked = content_words(instruction)
    return len(asked & content_words(completion)) / len(asked) if asked else None


def length_fit(tokens: int, reference: int) -> float:
    """The shorter length by the longer one: 1 for the reference's own length, 0 for nothing."""
    if tokens <= 0 or reference <= 0:
        return 0.0
    return min(tokens, reference) / max(tokens, reference)
