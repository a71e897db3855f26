"""First drafts of questions, made by rule: what a small model gets to polish.

A model of 135M parameters asked to turn "The capital of France is ____." into a question answers
it; asked to polish "The capital of France is what?" it polishes. A draft that passes the check
also stands in where no usable question came (``if_unusable: keep``).
"""

from __future__ import annotations

import re

_BLANK = re.compile(r"_{2,}")
_ASKS = re.compile(r"\b(?:what|which|who|whom|whose|when|where|why|how)\b", re.IGNORECASE)
_THIS = re.compile(r"\b(?:this|these)\b(?!\s+(?:is|was|are|were|of|and|or|the|a|an|to)\b)", re.IGNORECASE)
_VERB = (
    r"(?:is|was|are|were|has|had|have|does|do|did|can|could|will|would|should|may|might|became|"
    r"best|correctly|most|belongs?|refers?|means?|describes?|comes?|lives?|contains?|makes?)"
)
_OF_THESE = re.compile(
    rf"\b(?:which|what)(?:\s+one)?\s+of\s+(?:these|the\s+following|those)\s+(?!{_VERB}\b)"
    r"(?P<noun>(?:[\w'-]+\s+)??[\w'-]+)",
    re.IGNORECASE,
)
_OF_THESE_BARE = re.compile(
    rf"\b(?:which|what)(?:\s+one)?\s+of\s+(?:these|the\s+following|those)\s+(?={_VERB}\b)",
    re.IGNORECASE,
)


def draft_of_blank(sentence: str) -> str:
    """A sentence with blanks as a clumsy question: each blank becomes ``what``."""
    filler = "..." if _ASKS.search(_BLANK.split(sentence)[0]) else "what"
    return _as_question(_BLANK.sub(filler, sentence))


def draft_without_options(stem: str) -> str:
    """A stem that speaks of its options, or of "this city", as a clumsy question without them."""
    draft = _OF_THESE_BARE.sub("what ", stem)
    draft = _OF_THESE.sub(lambda found: f"which {_singular(found['noun'])}", draft)
    if draft == stem and not _ASKS.search(stem):
        draft = _THIS.sub("which", stem, count=1)
    return _as_question(draft)


def _singular(noun: str) -> str:
    for plural, singular in (("ies", "y"), ("sses", "ss"), ("ches", "ch"), ("men", "man")):
        if noun.endswith(plural) and len(noun) > len(plural) + 2:
            return noun.removesuffix(plural) + singular
    return noun.removesuffix("s") if re.search(r"[^su']s$", noun) else noun


def _as_question(text: str) -> str:
    text = text.strip().rstrip(" .!:;,?") + "?"
    return text[:1].upper() + text[1:]
