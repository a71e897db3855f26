"""What shortening a prompt must not lose, found by rule.

Code, markup, JSON, URLs, quotations, numbers, negations, names, constraints on the answer
("in three sentences"), and what the user's own patterns match. The rules are written for English;
of other languages they find code, markup, URLs, quotations, digits and names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ray_pipeline.stages.compression.words import Word, word_set, words_of

Kind = Literal[
    "code", "markup", "url", "quote", "number", "negation", "entity", "constraint", "pattern"
]


@dataclass(frozen=True)
class Span:
    """A part of a text that must stay: ``text[start:end]``."""

    kind: Kind
    start: int
    end: int


NUMBER_WORDS = {
    word: number
    for number, word in enumerate(
        (
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
            "twenty",
        )
    )
} | {
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
    "hundred": 100,
    "thousand": 1000,
    "million": 1_000_000,
    "billion": 1_000_000_000,
    "dozen": 12,
    "half": 0.5,
    "twice": 2,
    "double": 2,
    "triple": 3,
}
_ORDINALS = word_set(
    "first second third fourth fifth sixth seventh eighth ninth tenth last",
)
NEGATIONS = word_set(
    "not no never none nothing nobody nowhere neither nor without cannot except unless avoid",
    "exclude excluding lack lacks lacking refuse fail fails hardly barely rarely dont cant wont",
    "isnt arent doesnt didnt wasnt shouldnt couldnt",
)
#: Words that change how much or which: without them the task is another one.
_LIMITS = word_set(
    "only exactly all every each both any either most least more less fewer than maximum minimum",
    "before after between until since if unless whether instead rather or and but versus vs same",
    "different other others another many few several much",
)
_NUMBER = r"(?:\d[\d.,]{0,20}|" + "|".join(NUMBER_WORDS) + r"|a few|several|a couple of)"
_THINGS = (
    r"(?:words?|sentences?|lines?|paragraphs?|bullets?|bullet points?|points?|items?|steps?"
    r"|examples?|characters?|tokens?|pages?|stanzas?|verses?|sections?)"
)
_LIMIT = (
    r"(?:at (?:most|least)|no (?:more|fewer|less) than|(?:more|less|fewer) than|up to|exactly|only"
    r"|(?:a )?(?:maximum|minimum) of|under|within|around|about|approximately)"
)
_CONSTRAINT = re.compile(
    rf"\b(?:(?:in|using|with)\s+)?(?:{_LIMIT}\s+)?{_NUMBER}[-\s]+(?:\w+\s+)?{_THINGS}\b"
    rf"|\b{_LIMIT}\s+{_NUMBER}\b"
    r"|\bin\s+(?:an?|one|the)\s+(?:single\s+)?(?:word|sentence|line|paragraph)\b"
    r"|\b(?:in|as|into)\s+(?:an?\s+|the\s+)?(?:\w+\s+)?(?:list|table|poem|haiku|limerick|essay|letter"
    r"|email|json|xml|html|csv|yaml|markdown|bullet\s+points?|bullets|format|style|tone|rhyme)\b"
    r"|\bin\s+the\s+(?:form|style|format|tone|voice|manner)\s+of\s+(?:an?\s+|the\s+)?\w+"
    r"|\b(?:in|using|with)\s+(?:simple|plain|your\s+own|lay(?:man'?s)?)\s+(?:terms|language|words)\b"
    r"|\b(?:alphabetical|chronological|ascending|descending|reverse)\s+order\b"
    r"|\bstep[-\s]by[-\s]step\b|\b(?:briefly|concisely|in\s+detail|in\s+short)\b",
    re.IGNORECASE,
)
_PATTERNS: list[tuple[Kind, re.Pattern[str]]] = [
    ("code", re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)", re.DOTALL)),
    ("code", re.compile(r"`[^`\n]+`")),
    ("code", re.compile(r"^(?: {4}|\t)\S.*$", re.MULTILINE)),
    ("code", re.compile(r"\$\$.+?\$\$|\$[^$\s\n][^$\n]{0,200}\$", re.DOTALL)),
    ("markup", re.compile(r"\{\{.{0,500}?\}\}|\{%.{0,500}?%\}", re.DOTALL)),
    ("markup", re.compile(r"</?[A-Za-z!][^<>\n]{0,300}>")),
    ("markup", re.compile(r"^[ \t]*\|.*\|[ \t]*$", re.MULTILINE)),
    ("markup", re.compile(r"!?\[[^\]\n]{0,300}\]\([^)\s]{0,1000}\)")),
    (
        "url",
        re.compile(
            r"\b(?:https?|ftp|s3|file)://\S+|\bwww\.\S+|\b[\w.+-]{1,64}@[\w-]{1,64}\.[\w.]+"
        ),
    ),
    ("quote", re.compile(r'"(?:[^"\\\n]|\\.)*"')),
    ("quote", re.compile(r"“[^”]{0,2000}”|«[^»]{0,2000}»|„[^“”]{0,2000}[“”]")),
    ("quote", re.compile(r"(?<!\w)['‘][^'‘’\n]{1,300}['’](?!\w)")),
    ("constraint", _CONSTRAINT),
]
#: Characters of words that are not plain language.
_SYMBOLS = re.compile(r"[{}\[\]()<>=|\\/#*_~`$^%@&+\"“”«»„]")
#: What at the start of a line is markup in Markdown.
_MARKER = re.compile(r"[-+*>|]|#{1,6}|\d{1,9}[.)]|[-=*_]{3,}|[`~]{3,}.*|>.*|\|.*")
_BRACKETS = {"{": "}", "[": "]"}
_CONNECTORS = word_set(
    "of the de van von der la le du and & for",
)
#: Capitalised at the start of a sentence for that reason alone.
_COMMON_FIRST = word_set(
    "a an the what which who whom whose when where why how is are was were do does did can could",
    "will would should shall may might must have has had in on at to of for by from with as if",
    "this that these those it its there here i we you he she they my your our his her their and",
    "but or so not no some any all please give tell write list name create make explain describe",
    "find identify classify summarize summarise generate provide suggest compare define extract",
    "tag think imagine consider assume given using based let",
)


def spans_of(text: str, patterns: Sequence[re.Pattern[str]] = ()) -> list[Span]:
    """What must stay of a text, in no order; spans may overlap.

    Args:
        text: the text.
        patterns: of the user, whose matches must stay, too.
    """
    found = [
        Span(kind, match.start(), match.end())
        for kind, pattern in _PATTERNS
        for match in pattern.finditer(text)
    ]
    found += [
        Span("pattern", match.start(), match.end())
        for pattern in patterns
        for match in pattern.finditer(text)
    ]
    found += _balanced(text)
    words = words_of(text)
    found += _single_words(words)
    found += [Span("entity", words[a].start, words[b].end) for a, b in _names(words)]
    return found


def protected_words(
    text: str, words: Sequence[Word], patterns: Sequence[re.Pattern[str]] = ()
) -> set[int]:
    """The places of the words that must stay; see `spans_of`.

    Words with brackets and other symbols, words without letters, and those that say how much,
    which, or in what order ("only", "or", "before"), are among them.
    """
    covered = bytearray(len(text) + 1)
    for span in spans_of(text, patterns):
        covered[span.start : span.end] = b"\1" * (span.end - span.start)
    return {
        place
        for place, word in enumerate(words)
        if covered.find(1, word.start, word.end) >= 0
        or _SYMBOLS.search(text, word.start, word.end)
        or not any(map(str.isalpha, word.core))
        or word.lower in _LIMITS
    } | _before_markers(words)


def _before_markers(words: Sequence[Word]) -> set[int]:
    """First words of lines with a later word that would make the line a list or a heading."""
    found, first = set(), 0
    for place, word in enumerate(words):
        if word.starts_line:
            first = place
        elif _MARKER.fullmatch(word.text):
            found.add(first)
    return found


def is_negation(word: str) -> bool:
    """Whether a word in lower case negates: "not", "don't", "without"."""
    return word in NEGATIONS or word.endswith("n't")


def numbers_of(text: str) -> set[str]:
    """The numbers of a text: digits without separators of thousands, and words from two on."""
    found = set()
    for digits in re.findall(r"\d+(?:[.,:/]\d+)*", text):
        found.add(digits.replace(",", "").lstrip("0") or "0")
    for word in re.findall(r"[A-Za-z]+", text):
        number = NUMBER_WORDS.get(word.lower())
        if number is not None and number != 1:
            found.add(f"{number:g}" if number < 1e6 else str(int(number)))
    return found


def negations_of(text: str) -> int:
    """How many words of a text negate."""
    return sum(is_negation(word.lower) for word in words_of(text))


def names_of(text: str) -> set[str]:
    """The words of names in lower case: capitalised ones that begin no sentence, acronyms."""
    words = words_of(text)
    found = set()
    for first, last in _names(words):
        for word in words[first : last + 1]:
            if not word.core[:1].isupper() or word.lower in _COMMON_FIRST:
                continue
            found.add(word.lower.removesuffix("'s"))
    return found


def constraints_of(text: str) -> list[str]:
    """What a text says about the form of the answer: "in three sentences"."""
    return [match[0] for match in _CONSTRAINT.finditer(text)]


def literals_of(text: str, patterns: Sequence[re.Pattern[str]] = ()) -> list[str]:
    """What must stay letter by letter: code, markup, JSON, URLs, quotations, without repeats.

    Args:
        text: the text.
        patterns: of the user, whose matches must stay, too.
    """
    kinds = ("code", "markup", "url", "quote", "pattern")
    spans = spans_of(text, patterns)
    found = {text[s.start : s.end].strip(): None for s in spans if s.kind in kinds}
    return [literal for literal in found if literal]


def _single_words(words: Sequence[Word]) -> Iterator[Span]:
    for word in words:
        lower = word.lower
        if any(map(str.isdigit, word.core)) or lower in NUMBER_WORDS or lower in _ORDINALS:
            yield Span("number", word.start, word.end)
        elif is_negation(lower):
            yield Span("negation", word.start, word.end)


def _names(words: Sequence[Word]) -> list[tuple[int, int]]:
    """First and last word of each name."""
    found: list[tuple[int, int]] = []
    place = 0
    while place < len(words):
        if not _begins_name(words, place):
            place += 1
            continue
        last = place
        while (following := _next_of_name(words, last)) is not None:
            last = following
        first = place
        # "The Hague", "The Beatles": the article belongs to the name, wherever it stands.
        if first and words[first - 1].core == "The":
            first -= 1
        found.append((first, last))
        place = last + 1
    return found


def _is_capitalised(word: Word) -> bool:
    return word.core[:1].isupper() and word.core not in ("I", "I'm", "I'd", "I've", "I'll")


def _begins_name(words: Sequence[Word], place: int) -> bool:
    word = words[place]
    if any(map(str.isupper, word.core[1:])) and not word.core.endswith("'S"):
        return True  # NASA, iPhone
    if not _is_capitalised(word):
        return False
    if not word.starts_sentence:
        return True
    # "Barack Obama was": a sentence begins with a name.
    follower = words[place + 1] if place + 1 < len(words) else None
    return (
        word.lower not in _COMMON_FIRST
        and not word.tail
        and follower is not None
        and not follower.starts_sentence
        and _is_capitalised(follower)
    )


def _next_of_name(words: Sequence[Word], last: int) -> int | None:
    """The place of the next capitalised word of a name, over at most two connectors."""
    if words[last].tail:
        return None
    for place in range(last + 1, min(last + 4, len(words))):
        word = words[place]
        if word.starts_sentence or word.lead:
            return None
        if _is_capitalised(word):
            return place
        if word.core not in _CONNECTORS or word.tail:
            return None
    return None


def _balanced(text: str) -> Iterator[Span]:
    """The outermost balanced braces and square brackets: JSON, templates, links."""
    waiting: list[tuple[str, int]] = []
    for match in re.finditer(r'"(?:[^"\\\n]|\\.)*"|[{}\[\]]', text):
        mark = match[0]
        if mark in _BRACKETS:
            waiting.append((_BRACKETS[mark], match.start()))
        elif waiting and mark == waiting[-1][0]:
            start = waiting.pop()[1]
            if not waiting:
                yield Span("markup", start, match.end())
