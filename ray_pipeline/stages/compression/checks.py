"""What is wrong with a text that is to replace a longer prompt: checks by rule.

A fault is a short code, optionally followed by ``": "`` and detail: a row is dropped as
``compression:CODE``. The checks of numbers, negations, names and constraints compare what
`protected` finds in both texts; they cannot see that a paraphrase means something else.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from pydantic import Field

from ray_pipeline.core.config import Section
from ray_pipeline.stages.compression import protected
from ray_pipeline.stages.compression.deletion import CountTokens
from ray_pipeline.stages.compression.rules import ORDERS
from ray_pipeline.stages.compression.words import word_set, words_of
from ray_pipeline.stages.text.answers import content_words, is_chatter, is_refusal
from ray_pipeline.stages.text.paraphrases import asks

_QUOTES = "\"'“”‘’«»*`"
_LABEL = re.compile(
    r"^(?:(?:the |a |my )?(?:compressed|short(?:er|ened)?|concise|rewritten|new|output|result)"
    r"(?:\s+(?:prompt|version|text|question|instruction))?|prompt|compression|output)\s*:\s*",
    re.IGNORECASE,
)
_PREAMBLE = re.compile(
    r"^\W*(?:sure|certainly|of course|okay|here(?:['’]s| is| are))\b[^\n:]{0,80}:\s*", re.IGNORECASE
)
_EXPLAINS = re.compile(
    r"\b(?:this (?:version|prompt|compression) (?:is|keeps|removes|retains)|i (?:removed|shortened"
    r"|kept|have)|note that|\(?note:|explanation:|the original (?:prompt|text|question))",
    re.IGNORECASE,
)
_APOLOGY = re.compile(r"\b(?:as an ai\b|language model\b|i apologi[sz]e|i'?m sorry)", re.IGNORECASE)
#: Question words that the answer depends on, and that nothing else in a question says.
_ASKING = ("why", "how", "when", "where", "who", "whose", "whom")
_QUESTION_WORDS = {*_ASKING, "what", "which"}
_CHOICES = {"or", "vs", "versus", "nor"}
#: Words from which on a text's language is compared: shorter ones have too few common words.
_LANGUAGE_WORDS = 8
_COMMON = {
    "en": "the of and to in is are was were for that with on as what which how who why a an by "
    "from at be do does did can you your this these it or not",
    "de": "der die das und ist nicht ein eine von zu mit für auf den dem sich auch wie was wer",
    "fr": "le la les des et est une un du de que qui dans pour pas sur avec ce quel quelle",
    "es": "el la los las de y es una un que en por para con no se del qué cuál cómo",
    "it": "il lo la gli di e è un una che in per con non del della qual come cosa",
    "pt": "o os as de e é um uma que em por para com não do da qual como",
    "nl": "de het een van en is niet dat op te met voor wat wie hoe",
}
_COMMON_WORDS = {language: frozenset(words.split()) for language, words in _COMMON.items()}


class Limits(Section):
    """Limits of what a compression may change."""

    min_kept: float = Field(
        0.7,
        ge=0,
        le=1,
        description="least share of a prompt's content words that its compression must have",
    )
    max_new: float = Field(
        0.34,
        ge=0,
        le=1,
        description="largest share of a compression's content words that its prompt does not have",
    )


_DEFAULT = Limits()


def tidy_answer(text: str) -> str:
    """A model's answer without the preamble, label and quotation marks that models add.

    One line where only one has text; white space within lines stays.
    """
    text = text.strip()
    for _ in range(2):
        text = _PREAMBLE.sub("", text, count=1).strip()
        text = _LABEL.sub("", text, count=1).strip()
    if text[:1] in _QUOTES and text[-1:] in _QUOTES and len(text) > 2:
        inner = text[1:-1].strip()
        if not set(inner) & set('"“”«»`*'):
            text = inner
    return text


def fault(
    prompt: str,
    text: str,
    count: CountTokens,
    limits: Limits = _DEFAULT,
    patterns: Sequence[re.Pattern[str]] = (),
    *,
    by_model: bool = True,
) -> str | None:
    """What is wrong with ``text`` as a shorter form of ``prompt``; None if nothing is.

    Args:
        prompt: the original.
        text: what is to replace it.
        count: tokens of a text.
        limits: how much may change.
        patterns: of the user, whose matches must stay letter by letter.
        by_model: whether a model wrote it: then refusals, explanations and answers are looked for.
            A deletion of words cannot be one.
    """
    if not text.strip():
        return "empty"
    if " ".join(text.split()) == " ".join(prompt.split()):
        return "unchanged"
    if by_model and (found := _talk(prompt, text)) is not None:
        return found
    before, after = count(prompt), count(text)
    if after > before:
        return f"longer: {after} tokens, the prompt has {before}"
    if after == before:
        return f"no_shorter: {after} tokens, as many as the prompt"
    return (
        _language(prompt, text)
        or _lost_facts(prompt, text, patterns)
        or _answered(prompt, text, limits)
        or _lost_task(prompt, text)
        or _lost_content(prompt, text, limits)
    )


def paraphrase_fault(prompt: str, text: str) -> str | None:
    """What is wrong with ``text`` as the same prompt in other words, of any length."""
    if not text.strip():
        return "empty"
    if " ".join(text.casefold().split()) == " ".join(prompt.casefold().split()):
        return "unchanged"
    return (
        _talk(prompt, text)
        or _language(prompt, text)
        or _lost_facts(prompt, text)
        or _lost_task(prompt, text)
    )


def _talk(prompt: str, text: str) -> str | None:
    """An apology, or talk about the answer, that the prompt itself has not."""
    if _declines(text) and not _declines(prompt):
        return "refused"
    if is_chatter(text) and not is_chatter(prompt):
        return "explanation"
    if _EXPLAINS.search(text) and not _EXPLAINS.search(prompt):
        return "explanation"
    return None


def _declines(text: str) -> bool:
    return is_refusal(text) or bool(_APOLOGY.search(text))


def _language(prompt: str, text: str) -> str | None:
    if _script(prompt) != _script(text) and _script(text) is not None:
        return f"language: {_script(text)}, the prompt is in {_script(prompt)}"
    before, after = language_of(prompt), language_of(text)
    if before is not None and after is not None and before != after:
        return f"language: {after}, the prompt is in {before}"
    return None


def language_of(text: str) -> str | None:
    """The language with most common words in a text of eight words or more; None if unclear."""
    words = [word.lower for word in words_of(text)]
    if len(words) < _LANGUAGE_WORDS:
        return None
    scores = sorted(
        ((sum(word in common for word in words), name) for name, common in _COMMON_WORDS.items()),
        reverse=True,
    )
    (best, language), (next_best, _) = scores[:2]
    return language if best >= 2 and best > next_best else None


def _script(text: str) -> str | None:
    """The script of most letters, such as LATIN or CYRILLIC; None without letters."""
    counts: dict[str, int] = {}
    for character in text[:2_000]:
        if character.isalpha():
            name = unicodedata.name(character, "").partition(" ")[0]
            counts[name] = counts.get(name, 0) + 1
    return max(counts, key=lambda name: (counts[name], name)) if counts else None


def _lost_facts(prompt: str, text: str, patterns: Sequence[re.Pattern[str]] = ()) -> str | None:
    """A number, a negation, a name, a literal or a constraint that only one of them has."""
    numbers, kept = protected.numbers_of(prompt), protected.numbers_of(text)
    if numbers - kept:
        return f"number: {_listed(numbers - kept)} is missing"
    if kept - numbers:
        return f"number: {_listed(kept - numbers)} is new"
    before, after = protected.negations_of(prompt), protected.negations_of(text)
    if before != after:
        return f"negation: {after}, the prompt has {before}"
    own = {word.lower.removesuffix("'s") for word in words_of(text)}
    missing = {name for name in protected.names_of(prompt) if not _has(own, name)}
    if missing:
        return f"entity: {_listed(missing)} is missing"
    for literal in protected.literals_of(prompt, patterns):
        if literal not in text:
            return f"literal: {literal[:60]!r} is missing"
    if (lost := _lost_constraint(prompt, text)) is not None:
        return f"constraint: {lost!r} is missing"
    return None


def _has(words: set[str], name: str) -> bool:
    """Whether a name is among words, as it is or with an ending: "german", "germans"."""
    return name in words or name + "s" in words or name.removesuffix("s") in words


_GLUE = frozenset(["a", "an", "the", "in", "of", "as", "into", "with", "using", "to", "and"])


def _lost_constraint(prompt: str, text: str) -> str | None:
    own = {_stem(word.lower) for word in words_of(text)}
    for constraint in protected.constraints_of(prompt):
        words = {_stem(word.lower) for word in words_of(constraint)} - _GLUE
        # Numbers have been compared, and may be written in digits now.
        words -= {_stem(word) for word in protected.NUMBER_WORDS}
        if any(part for part in words if part not in own and not _in_compound(part, own)):
            return constraint
    return None


def _in_compound(part: str, words: set[str]) -> bool:
    """Whether a word is a part of a hyphenated one: "three-sentence"."""
    return any(part in word.split("-") for word in words if "-" in word) or any(
        piece in words for piece in part.split("-") if "-" in part
    )


def _stem(word: str) -> str:
    return word.removesuffix("s") if len(word) > 3 else word


def _lost_task(prompt: str, text: str) -> str | None:
    """The question word, or any sign that something is asked, that only the prompt has."""
    after = {word.lower for word in words_of(text)}
    is_asking = asks(prompt)
    if is_asking and not asks(text) and not after & (ORDERS | _QUESTION_WORDS):
        return "task: nothing is asked"
    first = next(iter(words_of(prompt)), None)
    leading = first.lower if first is not None else ""
    if is_asking and leading in _ASKING and leading not in after:
        return f"task: {leading!r} is missing"
    for before, word in zip(words_of(prompt), words_of(prompt)[1:], strict=False):
        joined = before.lower in ("and", "or") or before.tail == ","
        if is_asking and joined and word.lower in _QUESTION_WORDS and word.lower not in after:
            return f"task: {word.lower!r} is missing"
    if "or" in {word.lower for word in words_of(prompt)} and not after & _CHOICES:
        return "task: 'or' is missing"
    if "how many" in prompt.lower() and not {"many", "number", "count"} & after:
        return "task: 'how many' is missing"
    return None


#: Words that a shorter prompt may leave out or bring, as `content_words` cuts them: politeness, and
#: numbers, which are compared by value.
_NO_CONTENT = {
    word[:5]
    for word in word_set(
        "please kindly me really very just well also too some can would like want know tell give",
        " ".join(protected.NUMBER_WORDS),
    )
}


def _content(text: str) -> set[str]:
    words = content_words(text)
    return {word for word in words if word not in _NO_CONTENT and not word.isdigit()}


def _answered(prompt: str, text: str, limits: Limits) -> str | None:
    """Words that the prompt does not have: a model that answers brings its own."""
    before, after = _content(prompt), _content(text)
    if after and len(after - before) > limits.max_new * len(after):
        return f"answered: {_listed(after - before)} is new"
    return None


def _lost_content(prompt: str, text: str, limits: Limits) -> str | None:
    before, after = _content(prompt), _content(text)
    if before and len(before & after) < limits.min_kept * len(before):
        return f"content: {_listed(before - after)} is missing"
    return None


def _listed(words: Sequence[str] | set[str]) -> str:
    return ", ".join(sorted(words)[:5])
