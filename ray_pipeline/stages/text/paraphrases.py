"""Functions shared by the stages that make, compare and accept paraphrases.

Pure functions on strings.
"""

from __future__ import annotations

import re

from ray_pipeline.stages.text.answers import tidy_question

_ABOUT_IT = r"(?:re-?written|rephrased|paraphrased?|rewrite|version|question|sentence|answer|way)"
_PREAMBLE = re.compile(
    r"^\W*(?:"
    r"(?:sure|certainly|absolutely|of course|okay|ok)\b[^\n:?]{0,80}:"
    rf"|(?:here(?:['’]s|\s+is|\s+are)|the|a|my)\b[^\n:?]{{0,60}}?\b{_ABOUT_IT}\b[^\n:?]{{0,60}}:"
    r"|(?:formal|casual|informal|rewritten|rephrased|paraphrased?|new)"
    r"(?:\s+(?:version|question|answer))?\s*:"
    r"|(?:answer|draft|rewrite|rewritten text)\s*:"
    r"|(?:sure|certainly|absolutely|of course|okay)[!,.](?=\s)"
    r")\**\s*",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORD_OR_NUMBER = re.compile(r"[^\W_]+")
_ORDERS = frozenset(
    word
    for words in (
        "add apply arrange assess calculate choose cite classify compare compose compute consider",
        "convert create define demonstrate derive describe design determine differentiate discuss",
        "distinguish divide draft elaborate enumerate estimate evaluate examine explain extract",
        "find generate give guess highlight identify illustrate list make mention multiply name",
        "outline please predict prove provide rank recommend rewrite say select show simplify",
        "solve spell state suggest summarise summarize tell translate write",
    )
    for word in words.split()
)
_ASKS_TRUTH = re.compile(r"^\W*(?:true or false|yes or no)\b", re.IGNORECASE)


def tidy(text: str, one_line: bool) -> str:
    """A model's paraphrase without a preamble, a label and quotation marks around it.

    Args:
        text: the model's answer.
        one_line: join lines and runs of white space, as in a question.
    """
    text = text.strip()
    for _ in range(2):  # "Sure! Here is the question: ..."
        found = _PREAMBLE.match(text)
        if found is None or found.end() == len(text):
            break
        text = text[found.end() :].strip()
    text = tidy_question(text)
    return " ".join(text.split()) if one_line else text


def asks(text: str) -> bool:
    """Whether a text asks for an answer: a question mark, an order, "true or false"."""
    if "?" in text or _ASKS_TRUTH.match(text):
        return True
    first = _WORD_OR_NUMBER.search(text)
    return first is not None and first[0].lower() in _ORDERS


def same_words(one: str, other: str) -> bool:
    """Whether two texts differ only in case, punctuation and white space."""
    return bare(one) == bare(other)


def bare(text: str) -> str:
    """The words of a text without case and punctuation; the text where it has no words."""
    return " ".join(_WORD_OR_NUMBER.findall(text.casefold())) or text.strip()


def same_numbers(one: str, other: str) -> bool:
    """Whether two texts hold the same numbers, in any order: 1945 is not 1946."""
    return _numbers(one) == _numbers(other)


def _numbers(text: str) -> list[str]:
    return sorted(number.replace(",", "") for number in _NUMBER.findall(text))


def word_count(text: str) -> int:
    """Words by white space."""
    return len(text.split())
