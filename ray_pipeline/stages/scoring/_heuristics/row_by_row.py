"""What the rules look at, found in one row by the methods of `str` and by `re` themselves.

For rows with characters about which a batch's short cuts could be wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from ray_pipeline.stages.scoring._heuristics.readability import Readability
from ray_pipeline.stages.scoring._heuristics.rules import (
    COMPLEX_QUESTIONS,
    DIRECTIVES,
    STEPS,
    TOPICS,
    Found,
)

_LIST = re.compile(r"^\d+\.|\-\s", re.MULTILINE)


def correct(
    found: Found, row: int, instruction: str, response: str, readability: Readability
) -> None:
    """Set what was found in one row, except for its tokens."""
    question, answer = instruction.lower(), response.lower()
    both = f"{instruction} {response}".lower()
    found.instruction_words[row] = len(instruction.split())
    found.asks[row] = "?" in instruction or _any(DIRECTIVES, question)
    found.reading_ease[row] = readability.of_text(instruction)
    found.is_complex[row] = _any(COMPLEX_QUESTIONS, question)
    found.response_words[row] = len(response.split())
    found.structured[row] = "\n\n" in response or bool(_LIST.search(response))
    sentences = response.split(".")
    found.sentences[row] = len(sentences)
    found.varied[row] = varied([n for s in sentences if (n := len(s.split()))])
    found.code[row] = "```" in response or "def " in response
    found.steps[row] = sum(word in answer for word in STEPS)
    found.topics[row] = sum(word in both for word in TOPICS)


def varied(lengths: Sequence[int]) -> bool:
    """Whether lengths of sentences have a standard deviation above 3."""
    return len(lengths) > 0 and bool(np.std(lengths) > 3)


def _any(words: Sequence[str], text: str) -> bool:
    return any(word in text for word in words)
