"""Checks of a model's answers, shared by all stages that ask a model.

A check returns None, or what is wrong, which is shown to the model when it is asked again.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Check = Callable[[str], str | None]

_REFUSAL = re.compile(
    r"^\W*(?:(?:i['’]?m|i\s+am)\s+(?:really\s+|very\s+)?(?:sorry|unable|not\s+able)|sorry\b"
    r"|i\s+(?:can(?:['’]?t|not)|could\s?n['’]?o?t|won['’]?t|do\s?n['’]?o?t\s+(?:know|have))\b"
    r"|as\s+an?\s+(?:ai|artificial|(?:large\s+)?language)\b|i\s+apologi[sz]e\b"
    r"|unfortunately,?\s+i\b|it\s+is\s+not\s+possible\b|there\s+is\s+no\s+(?:question|sentence)\b)",
    re.IGNORECASE,
)
_CHATTER = re.compile(
    r"^\W*(?:sure|certainly|of course|okay|here(?:['’]s| is| are)"
    r"|the (?:rewritten|rephrased|new|answer)\b"
    r"|(?:answer|rewrite|sentence|draft)(?:\s+of\s+(?:the\s+)?question)?\s*:"
    r"|what\s+(?:is|was)\s+the\s+(?:correct\s+)?(?:answer|question)\b)",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Whether the model declines or talks about itself instead of answering."""
    return bool(_REFUSAL.match(text))


def is_chatter(text: str) -> bool:
    """Whether the text begins with talk to the user ("Sure, here is ...")."""
    return bool(_CHATTER.match(text))


def contains_text(text: str, part: str) -> bool:
    """Whether ``part`` occurs in ``text`` as whole words, whatever the case."""
    part = part.strip(" .,;:!?\"'").lower()
    if not part:
        return False
    # Not a regular expression: a long part would be compared again at every place of the text.
    text = text.lower()
    if len(part) > _LONG_PART:
        return part in text
    start = text.find(part)
    while start >= 0:
        end = start + len(part)
        if not (_is_word(text[start - 1 : start]) or _is_word(text[end : end + 1])):
            return True
        start = text.find(part, start + 1)
    return False


#: Characters from which on a part may begin or end within a word.
_LONG_PART = 1000


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
#: Stop words: they carry nothing of a question's subject.
_COMMON_WORDS = frozenset(
    word
    for words in (
        "a about all also an and any are as at be been being but by called can complete correct",
        "could did do does each except fill find finish following for from had has have he her his",
        "how i if in into is it its known missing name named not of on one only or other our out",
        "question she so some than that the their them then there these they this those to true",
        "false was we were what when where which who whom whose why will with word words would",
        "you your",
    )
    for word in words.split()
)


def content_words(text: str) -> set[str]:
    """The words of a text that carry its subject, cut to a stem of five letters."""
    words = {word.lower() for word in _WORD.findall(text)}
    return {word.removesuffix("'s")[:5] for word in words - _COMMON_WORDS}


def shared_words(original: str, text: str) -> float:
    """Share of the original's content words that ``text`` keeps; 1.0 when it has none."""
    words = content_words(original)
    return len(words & content_words(text)) / len(words) if words else 1.0


_LABEL = re.compile(
    r"^(?:(?:the )?(?:rewritten |original |draft |new )?question|q|output)\s*:\s*", re.IGNORECASE
)


def tidy_question(text: str) -> str:
    """A model's question without the label and quotation marks that small models add."""
    text = _LABEL.sub("", text.strip()).strip()
    for quote in ('"', "'", "*", "**"):
        if len(text) > 2 * len(quote) and text.startswith(quote) and text.endswith(quote):
            inner = text[len(quote) : -len(quote)].strip()
            text = inner if quote not in inner else text
    return text


_QUESTION_WORD = re.compile(r"\b(?:what|which|who|whom|whose|when|where|why|how)\b", re.IGNORECASE)
_ENDS_OPEN = re.compile(r"\b(?:a|an|the|and|or)\s*\?$", re.IGNORECASE)
_YES_NO = frozenset({"yes", "no", "true", "false"})
_BLANK = re.compile(r"_{2,}")


def has_blank(text: str) -> bool:
    """Whether a text has a blank to fill in: two underscores or more."""
    return bool(_BLANK.search(text))


def question_check(original: str, answer: str, min_shared_words: float, max_chars: int) -> Check:
    """The check that a text is one usable question, made from ``original``, for ``answer``.

    Args:
        original: the text that the model was to turn into a question.
        answer: must not be given away, unless the original has it.
        min_shared_words: share of the original's content words that must still be there.
        max_chars: longest question.
    """

    def check(text: str) -> str | None:
        text = tidy_question(text)
        wrong_form = _form_of_question(text, max_chars)
        if wrong_form is not None:
            return wrong_form
        if answer.strip(" .").lower() not in _YES_NO and not _QUESTION_WORD.search(text):
            return "Use a question word such as what, which or who."
        if _is_unchanged(text, original):
            return "The text is unchanged: rewrite it as a question."
        if contains_text(text, answer) and not contains_text(original, answer):
            return "The question must not contain the answer."
        if shared_words(original, text) < min_shared_words:
            return "The question must keep the facts and names of the original."
        return None

    return check


def _form_of_question(text: str, max_chars: int) -> str | None:
    if not text:
        return "The answer is empty."
    if "\n" in text:
        return "Write one line only."
    if is_refusal(text) or is_chatter(text):
        return "Write only the question itself."
    if not text.endswith("?"):
        return "The question must end with a question mark."
    if len(text) > max_chars:
        return f"The question is too long: use at most {max_chars} characters."
    if len(_WORD.findall(text)) < 3 or _ENDS_OPEN.search(text):
        return "The question is not complete."
    if has_blank(text):
        return "The question must have no blank."
    return None


def _is_unchanged(text: str, original: str) -> bool:
    """Whether the text repeats the original, although that was no question or had a blank."""
    if _WORD.findall(text.lower()) != _WORD.findall(original.lower()):
        return False
    if has_blank(original):
        return "..." not in text  # dots for the blank, in what was a question before
    return not original.rstrip().endswith("?")
