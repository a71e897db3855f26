"""The rules: what the four scores are, given what was found in a row.

Every number is that of the experiment this system comes from, and so is the order of every
addition: the scores are the same to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

DIRECTIVES = ("explain", "describe", "write", "create", "analyze")
COMPLEX_QUESTIONS = ("why", "how", "analyze", "compare", "evaluate")
TOPICS = ("python", "code", "explain", "write", "create")
STEPS = ("first", "second", "then", "finally", "step")


@dataclass(frozen=True)
class Found:
    """What the rules look at, of each row."""

    instruction_words: Integers
    asks: Flags  # a question mark or a directive
    reading_ease: Floats
    is_complex: Flags  # one of the complex questions
    response_words: Integers
    structured: Flags  # paragraphs or a list
    sentences: Integers  # parts between full stops
    varied: Flags  # the lengths of these parts have a standard deviation above 3
    code: Flags
    steps: Integers  # how many of the step words
    topics: Integers  # how many of the common topics
    tokens: Integers
    distinct: Integers
    distinct_pairs: Integers


def clarity(found: Found) -> Floats:
    """Length, directive and readability of the instruction."""
    words = found.instruction_words
    length = np.where(words < 5, 0.5, np.where(words > 100, 0.7, 1.0))
    structure = np.where(found.asks, 1.0, 0.6)
    ease = found.reading_ease
    reading = np.where(ease > 0, np.minimum(ease / 100, 1.0), 0.5)
    return (length + structure + reading) / 3


def response_quality(found: Found) -> Floats:
    """Length and structure of the response, and how much its sentences vary in length."""
    words = found.response_words
    length = np.where(words < 10, 0.3, np.where(words > 500, 0.8, 1.0))
    structure = np.where(found.structured, 1.0, 0.7)
    coherence = np.where(found.sentences > 2, np.where(found.varied, 1.0, 0.7), 0.6)
    return (length + structure + coherence) / 3


def diversity(found: Found) -> Floats:
    """Share of distinct tokens and of distinct pairs of tokens, and how uncommon the topic is."""
    vocabulary = np.minimum(_share(found.distinct, found.tokens) * 2, 1.0)
    pairs = _share(found.distinct_pairs, found.tokens - 1)
    topic = 1.0 - found.topics * 0.1
    return (vocabulary + pairs + topic) / 3


def complexity(found: Found) -> Floats:
    """Step words and code in the response, and the kind of question."""
    steps = np.minimum(found.steps * 0.3, 1.0)
    technical = np.where(found.code, 1.0, 0.6)
    question = np.where(found.is_complex, 1.0, 0.5)
    return (steps + technical + question) / 3


def _share(part: Integers, whole: Integers) -> Floats:
    """Part of whole; 0 of nothing."""
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
