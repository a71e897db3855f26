"""Measures of sampled completions of one instruction, without a judge.

All measures lie between 0 and 1, higher is better, and an empty completion gets 0. They compare
models on the same instructions. Each can be fooled alone: read them together, beside the values of
the reference responses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise

_WORD = re.compile(r"\w+")
#: Minimum letters of a content word.
_CONTENT = 4
#: English words of that length that carry no content.
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
    """1 − the fraction of word 4-grams that repeat an earlier one of the text.

    A text that is too short for two 4-grams repeats nothing.
    """
    tokens = words(text)
    if not tokens:
        return 0.0
    grams = [tuple(tokens[at : at + length]) for at in range(len(tokens) - length + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def word_pairs(texts: Iterable[str]) -> Pairs:
    """All pairs of neighbouring words in texts."""
    return frozenset(pair for text in texts for pair in pairwise(words(text)))


def known_pairs(text: str, known: Pairs) -> float:
    """The fraction of a text's pairs of neighbouring words that occur in human texts.

    A text of one word has no pairs: it gets 1.
    """
    tokens = words(text)
    if not tokens:
        return 0.0
    pairs = list(pairwise(tokens))
    return sum(pair in known for pair in pairs) / len(pairs) if pairs else 1.0


def coherence(text: str, known: Pairs) -> float:
    """The fraction of new 4-grams times the fraction of known word pairs.

    The first falls where a model repeats itself, the second where it combines words at random: the
    two ways in which small models fail. It does not measure sense beyond neighbouring words.
    """
    return fresh(text) * known_pairs(text, known)


def distinct(texts: Sequence[str], length: int) -> float:
    """Different n-grams of all texts, as a fraction of all n-grams (distinct-n, Li et al. 2016)."""
    grams = [
        tuple(tokens[at : at + length])
        for tokens in map(words, texts)
        for at in range(len(tokens) - length + 1)
    ]
    return len(set(grams)) / len(grams) if grams else 0.0


def diversity(texts: Sequence[str]) -> float:
    """How much completions of one instruction differ: the mean of 1 − ROUGE-L over their pairs.

    Empty completions equal each other and differ from all others by 1. A single completion has no
    pairs and gets 0.
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
    """Different content words of a text: four letters or more, without a plural s."""
    return frozenset(
        word.removesuffix("s")
        for word in words(text)
        if len(word) >= _CONTENT and word not in _EMPTY
    )


def follows(instruction: str, completion: str) -> float | None:
    """The fraction of an instruction's content words that its completion contains.

    A proxy for following the instruction: an answer to another question does not contain them. It
    cannot tell an answer from an echo. None if the instruction has no content words.
    """
    asked = content_words(instruction)
    return len(asked & content_words(completion)) / len(asked) if asked else None


def length_fit(tokens: int, reference: int) -> float:
    """The shorter length divided by the longer: 1 for the reference's length, 0 if empty."""
    if tokens <= 0 or reference <= 0:
        return 0.0
    return min(tokens, reference) / max(tokens, reference)
