"""What a question asks for and about, compared between a question and its paraphrase. English.

Embeddings do not see what changes the meaning most: a name for another one, a "not", a condition
that is gone, "how do you" for "what is". These functions compare the words. They are strict: a
paraphrase by a synonym has lost a word. Pure functions on strings.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_QUOTED = re.compile(r"[\"“”«»][^\"“”«»]+[\"“”«»]")


def _words(*lines: str) -> frozenset[str]:
    return frozenset(word for line in lines for word in line.split())


#: Words for having a name, which replace each other.
_CALLED = _words("name names named call calls called term terms termed known")
#: Words without content of their own. Prepositions of time and place that change what is asked
#: (before, between, under, without), quantifiers (all, only, most) and negations are content.
_EMPTY = _words(
    "a an the this that these those it its it's there here of in on at to for by from with as into",
    "onto upon is are was were be been being am do does did done doing has have had having can",
    "could will would shall should may might must and or but if so than then also just i you he",
    "she we they me him her us them my your his our their one ones who whom whose what which when",
    "where why how what's who's where's how's when's that's there's please tell know say give let",
    "used use consider considered given you're so well",
    "many much actually exactly really typically generally usually currently specific particular",
    "question answer true false yes no",
)
_NEGATIONS = _words(
    "not no never none nobody nothing neither nor without except cannot can't won't isn't aren't",
    "wasn't weren't don't doesn't didn't hasn't haven't hadn't couldn't wouldn't shouldn't lacks",
    "lack cant dont doesnt didnt isnt arent",
)
_PEOPLE = _words(
    "person man woman people individual figure author writer poet artist painter singer musician",
    "composer scientist inventor discoverer founder explorer actor actress director king queen",
    "president leader scholar physicist chemist mathematician philosopher band group team player",
    "company nation organisation organization army emperor pharaoh saint god goddess character",
    "hero detective architect astronaut general politician minister chancellor novelist playwright",
)
_PLACES = _words(
    "place country city town state continent location region area county province island",
    "building museum stadium village street",
)
_TIMES = _words("year date day month time decade century era period season hour age")
_AMOUNTS = _words(
    "number amount quantity count total fraction percentage percent proportion share",
    "depth length height width weight mass size distance speed age temperature duration",
    "population area volume price cost value",
)
_DEGREES = _words(
    "many much long deep tall high wide far fast old big large heavy hot cold often big thick loud",
    "close near soon strong hard bright small short",
)
_NUMBERS = _words("two three four five six seven eight nine ten first second third")
_CLASSES = (
    (_TIMES, "time"),
    (_AMOUNTS, "amount"),
    (_words("reason reasons cause causes purpose"), "reason"),
    (_words("way manner method means process procedure"), "way"),
    (_PLACES, "place"),
    (_PEOPLE, "person"),
)
_NOUNS = frozenset[str]().union(*(members for members, _ in _CLASSES))
_PERSON = re.compile(r"(?:ist|ian|man|wright|eer)$")

_TRUTH = re.compile(r"^\W*(?:(?:is it|it is)\s+)?(?:true or false|yes or no)\b", re.IGNORECASE)
_AUXILIARIES = _words(
    "is are was were do does did can could will would has have had should may might must am isn't",
    "aren't wasn't weren't doesn't don't didn't can't",
)


_WHICH = frozenset(["what", "which"])
_INSIDE = (["in"], ["on"], ["at"], ["from"], ["near"])


#: Words after a question word that say what it asks for.
_LOOKED_AT = 7


def asked_for(question: str) -> str | None:
    """What kind of thing a question asks for; None where no English question word says it.

    One of ``person``, ``place``, ``time``, ``amount``, ``reason``, ``way``, ``truth``, ``thing``.
    """
    if _TRUTH.match(question):
        return "truth"
    words = [word.lower().replace("’", "'") for word in _WORD.findall(question)]
    if words and words[0] in _AUXILIARIES and words[1:2] != ["you"]:
        return "truth"
    for place, word in enumerate(words):
        # The next few alone: a copy of all that follow, for each word, takes quadratic time.
        kind = _kind(word.removesuffix("'s"), words[place + 1 : place + 1 + _LOOKED_AT])
        if kind == "place" and word in _WHICH and words[place - 1 : place] not in _INSIDE:
            return "thing"  # "which city hosted ..." is not where something is
        if kind is not None:
            return kind
    return "truth" if words and words[0] in _AUXILIARIES else None


def _kind(word: str, following: list[str]) -> str | None:
    """What a question word asks for, with the words after it; None if it is no question word."""
    if word in ("who", "whom", "whose"):
        return "person"
    if word == "where":
        return "place"
    if word == "when":
        return "time"
    if word == "why":
        return "reason"
    if word == "how":
        return "amount" if following[:1] and following[0] in _DEGREES else "way"
    if word in ("what", "which"):
        return _noun_kind(following)
    return None


def _noun_kind(following: list[str]) -> str:
    """What "which …" asks for, by the first word after it that has content."""
    noun = next((word for word in following if _may_be_noun(word)), "")
    for members, kind in _CLASSES:
        if noun in members or noun.removesuffix("s") in members:
            return kind
    return "person" if _PERSON.search(noun.removesuffix("s")) else "thing"


def _may_be_noun(word: str) -> bool:
    if word in _CALLED:  # "what is the name of the explorer" asks for the explorer
        return False
    return word in _NOUNS or (word not in _EMPTY and word not in _NUMBERS and word.isalpha())


def asks_the_same(question: str, source: str) -> bool:
    """Whether a question may ask for the same kind of thing as its source.

    It may where that of the source cannot be told. A question without a question word does not: it
    is a fragment, such as "The capital of France?". "Which" with a noun that is none of ours fits
    "which author" and "in which city", but neither "who" nor "where".
    """
    mine, theirs = asked_for(question), asked_for(source)
    if mine == theirs or theirs is None or (theirs == "truth" and mine is None):
        return True
    kinds = {mine, theirs}
    return kinds in _COMPATIBLE and not any(map(_is_bare, (question, source)))


_COMPATIBLE = ({"thing", "person"}, {"thing", "place"})


def _is_bare(question: str) -> bool:
    """Whether a question asks without a noun: by who or where."""
    words = [word.lower() for word in _WORD.findall(question)]
    return not {"what", "which", "what's"} & set(words)


def _question_words(text: str) -> int:
    """How often a text asks: the why of "the reason why" and the who of "the man who" do not."""
    text = _RELATIVE.sub(" ", text)
    return sum(word.lower().removesuffix("'s") in _ASKING for word in _WORD.findall(text))


_RELATIVE = re.compile(
    r"\b(?:reason why|place where|(?!in|on|at|by|of|to|is|and)[a-z]+ who)\b", re.I
)


_ASKING = _words("who whom whose what which where when why how")
#: "What do rings are on the planet": an auxiliary, and then a verb that takes none.
#: Between the two is no other of the first kind: from each of them to the end takes quadratic time.
_GARBLED = re.compile(
    r"\b(?:do|does|did)\b(?:(?!\b(?:do|does|did)\b)[^,;:?])*\b(?:is|are|was|were)\b",
    re.IGNORECASE,
)

_NEXT_SENTENCE = re.compile(r"[.!?]\s+\w")


def is_garbled(question: str, source: str) -> bool:
    """Whether a question has more question words or sentences than its source, or do with are."""
    if _question_words(question) > max(1, _question_words(source)):
        return True
    if len(_NEXT_SENTENCE.findall(question)) > len(_NEXT_SENTENCE.findall(source)):
        return True
    return bool(_GARBLED.search(question)) and not _GARBLED.search(source)


def content(text: str) -> Counter[str]:
    """The stems of a text's content words, with how often each occurs."""
    return Counter(
        _stem(word)
        for word in (w.lower().replace("’", "'") for w in _WORD.findall(text))
        if word not in _EMPTY and word not in _NEGATIONS
    )


def lost_words(text: str, source: str) -> list[str]:
    """Stems of content words that the source has and the text lacks."""
    mine = content(text)
    return sorted(stem for stem in content(source) if stem not in mine)


def new_words(text: str, source: str) -> list[str]:
    """Stems of content words that the text adds, without the noun that it asks for by "which"."""
    words = [word.lower() for word in _WORD.findall(text)]
    asked = {
        _stem(noun)
        for place, word in enumerate(words)
        if word in _WHICH
        for noun in words[place + 1 : place + 2]
    }
    theirs = content(source)
    return sorted(stem for stem in content(text) if stem not in theirs and stem not in asked)


def adds_too_much(text: str, source: str) -> bool:
    """Whether a text adds more content words than half of those that the source has."""
    return len(new_words(text, source)) > content(source).total() // 2


def changed_articles(text: str, source: str) -> list[str]:
    """Words that the text makes definite: "a gas" to "the gas", "legs" to "the leg"."""
    theirs = _with_articles(source)
    return sorted(
        {
            word
            for stem, (article, word) in _with_articles(text).items()
            if article == "the" and stem in theirs and _is_made_definite(word, theirs[stem])
        }
    )


def _is_made_definite(word: str, before: tuple[str, str]) -> bool:
    article, old = before
    return article in ("a", "an") or (article == "" and old == f"{word}s")


def _with_articles(text: str) -> dict[str, tuple[str, str]]:
    """The first occurrence of each content word by its stem: its article, or "", and the word."""
    words = ["", *(word.lower() for word in _WORD.findall(text))]
    found: dict[str, tuple[str, str]] = {}
    for before, word in pairwise(words):
        if word not in _EMPTY:
            found.setdefault(_stem(word), (before if before in ("a", "an", "the") else "", word))
    return found


def repeated_words(text: str, source: str) -> list[str]:
    """Stems of content words that the text says more often than once and than the source."""
    theirs = content(source)
    return sorted(stem for stem, n in content(text).items() if n > max(1, theirs[stem]))


def new_names(text: str, source: str) -> list[str]:
    """Names in the text that the source does not mention: capitalised words, and quotations.

    The first word of a sentence is one only if its other letters are capitals, too.
    """
    known = {word.lower() for word in _WORD.findall(source)} | set(content(source))
    found = [name for name in _names(text) if name.lower() not in known]
    return sorted({name for name in found if _stem(name.lower()) not in known})


def lost_names(text: str, source: str) -> list[str]:
    """Names of the source that the text does not spell alike: "Minutes" is not "Minute"."""
    mine = {form for word in _WORD.findall(text) for form in _spellings(word)}
    return sorted({name for name in _names(source) if mine.isdisjoint(_spellings(name))})


def _spellings(word: str) -> set[str]:
    """A word with and without its possessive, and as it is where the apostrophe was forgotten."""
    word = word.lower().replace("’", "'")
    return {word, word.removesuffix("'s"), word.replace("'", "")}


def names_change_places(text: str, source: str) -> bool:
    """Whether two names are in another order, and no "by" says that the sentence was turned."""
    orders = [[name.lower() for name in dict.fromkeys(_names(each))] for each in (text, source)]
    mine, theirs = ([n for n in order if n in orders[0] and n in orders[1]] for order in orders)
    return mine != theirs and _by(text) == _by(source)


def _by(text: str) -> int:
    return sum(word.lower() == "by" for word in _WORD.findall(text))


def same_negation(text: str, source: str) -> bool:
    """Whether both texts negate equally often: "not", "never", "without", "isn't"."""
    return _negations(text) == _negations(source)


def _names(text: str) -> list[str]:
    found, end = [], 0
    for match in _WORD.finditer(text):
        word, between = match[0], text[end : match.start()]
        begins = end == 0 or any(mark in between for mark in ".?!:")
        capital = word.isupper() and len(word) > 1 if begins else word[:1].isupper()
        if capital and word != "I":
            found.append(word)
        end = match.end()
    for quoted in _QUOTED.findall(text):
        found.extend(_WORD.findall(quoted))
    return found


def _negations(text: str) -> int:
    words = (word.lower().replace("’", "'") for word in _WORD.findall(text))
    return sum(word in _NEGATIONS for word in words)


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    if word in _CALLED:
        return "call"
    found: str = _stemmer().stem(word.removesuffix("'s"))
    return found


@cache
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()
