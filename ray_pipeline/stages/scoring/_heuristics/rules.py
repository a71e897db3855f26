"""The rules: the four scores of rows, from their features.

Every constant, and the order of every addition, is that of the original experiment: the scores are
the same to the last bit.
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
class Features:
    """The features that the rules use: one value per row."""

    instruction_words: Integers
    asks: Flags  # a question mark or a directive
    reading_ease: Floats
    is_complex: Flags  # one of the complex questions
    response_words: Integers
    structured: Flags  # paragraphs or a list
    sentences: Integers  # parts between full stops
    varied: Flags  # the lengths of these parts have a standard deviation above 3
    code: Flags
    steps: Integers  # number of the step words that occur
    topics: Integers  # number of the common topics that occur
    tokens: Integers
    distinct: Integers
    distinct_pairs: Integers


def clarity(features: Features) -> Floats:
    """Length, directive and readability of the instruction."""
    words = features.instruction_words
    length = np.where(words < 5, 0.5, np.where(words > 100, 0.7, 1.0))
    structure = np.where(features.asks, 1.0, 0.6)
    ease = features.reading_ease
    reading = np.where(ease > 0, np.minimum(ease / 100, 1.0), 0.5)
    return (length + structure + reading) / 3


def response_quality(features: Features) -> Floats:
    """Length and structure of the response, and how much its sentences vary in length."""
    words = features.response_words
    length = np.where(words < 10, 0.3, np.where(words > 500, 0.8, 1.0))
    structure = np.where(features.structured, 1.0, 0.7)
    coherence = np.where(features.sentences > 2, np.where(features.varied, 1.0, 0.7), 0.6)
    return (length + structure + coherence) / 3


def diversity(features: Features) -> Floats:
    """Share of distinct tokens and of distinct pairs of tokens, and how uncommon the topic is."""
    vocabulary = np.minimum(_share(features.distinct, features.tokens) * 2, 1.0)
    pairs = _share(features.distinct_pairs, features.tokens - 1)
    topic = 1.0 - features.topics * 0.1
    return (vocabulary + pairs + topic) / 3


def complexity(features: Features) -> Floats:
    """Step words and code in the response, and the kind of question."""
    steps = np.minimum(features.steps * 0.3, 1.0)
    technical = np.where(features.code, 1.0, 0.6)
    question = np.where(features.is_complex, 1.0, 0.5)
    return (steps + technical + question) / 3


def _share(part: Integers, whole: Integers) -> Floats:
    """Part of whole; 0 of nothing."""
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
