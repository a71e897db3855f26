"""Code shared by the stages that rewrite questions."""

from __future__ import annotations

import re
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ray_pipeline.core.rows import data_columns
from ray_pipeline.stage import AskStageConfig
from ray_pipeline.stages.text.answers import Check, question_check


class RewriteConfig(AskStageConfig):
    """Configuration of a stage in which a model rewrites questions."""

    llm: str = Field(
        "formal", description="language model that rewrites questions: a name under `llms`"
    )
    if_unusable: Literal["fail", "keep"] = Field(
        "fail",
        description="what happens to a row if the model gives no usable question; fail: the "
        "row fails; keep: the row is kept with a `note`, and its question is a draft made by "
        "rule if the draft is usable, else the old question",
    )
    min_shared_words: float = Field(
        0.6,
        ge=0,
        le=1,
        description="minimum share of the old question's content words in the new one; small "
        "models tend to ask about something else",
    )
    max_growth: float = Field(
        1.5,
        ge=1,
        description="maximum length of a new question, as a multiple of the old question's "
        "characters",
    )

    def check(self, original: str, answer: str) -> Check:
        """The check of a question that replaces ``original``."""
        # Short questions may grow by more than their share: "It is ___." needs words.
        max_chars = max(int(len(original) * self.max_growth), len(original) + 40)
        return question_check(original, answer, self.min_shared_words, max_chars)


def unasked(draft: str, check: Check) -> str | None:
    """The draft, if it may replace the question that the model did not give; else None."""
    return draft if check(draft) is None else None


def converted_rows(rows: pa.Table) -> pa.Table:
    """The rows with an ``original_question``: it, the question and answer, the other columns."""
    first = ["row_id", "original_question", "question", "answer"]
    others = [column for column in data_columns(rows) if column not in first]
    return rows.filter(pc.is_valid(rows["original_question"])).select(first + others)


# First drafts of questions, made by rule, for a small model to improve.
# A model of 135M parameters that is asked to turn "The capital of France is ____." into a question
# answers it. Given the draft "The capital of France is what?" and the answer, it has nothing left
# to answer. A draft that passes the check also stands in where no usable question came
# (``if_unusable: keep``).

_BLANK = re.compile(r"_{2,}")
_QUESTION_WORD = r"(?:what|which|who|whom|whose|when|where|why|how)"
_BEGINS_ASKING = re.compile(rf"^\W*(?:(?:in|on|at|to|of|for|by|from)\s+)?{_QUESTION_WORD}\b", re.I)
_VERB = (
    r"(?:is|was|are|were|has|had|have|does|do|did|can|could|will|would|should|may|might|became"
    r"|best|correctly|most|belongs?|refers?|means?|describes?|comes?|lives?|contains?|makes?)"
)
_THIS = re.compile(rf"\bthis\s+(?!{_VERB}\b|(?:of|and|or|the|an?|to|time)\b)(?=\w)", re.I)
_OF_THESE = r"\b(?:which|what)(?:\s+one)?\s+of\s+(?:these|those|the\s+following)\s+"
_OF_THESE_THINGS = re.compile(rf"{_OF_THESE}(?!{_VERB}\b|not\b)(?P<noun>[\w'-]+)", re.I)
_OF_THESE_ALONE = re.compile(rf"{_OF_THESE}(?={_VERB}\b|not\b)", re.I)


def draft_of_blank(sentence: str) -> str:
    """A sentence with blanks as a clumsy question: "Insects have what legs?".

    A sentence that asks already gets dots: "What is missing: 1, 2, ..., 4?".
    """
    asks = sentence.rstrip().endswith("?") or _BEGINS_ASKING.search(sentence)
    if asks:
        return _as_question(_BLANK.sub("...", sentence))
    return _as_question(re.sub(r"\b(?:an?\s+)?_{2,}", "what", sentence))


def draft_without_options(stem: str) -> str:
    """A stem about "these" or "this city" as a clumsy question that needs no options."""
    draft = _OF_THESE_ALONE.sub("what ", stem)
    draft = _OF_THESE_THINGS.sub(lambda found: f"which {_singular(found['noun'])}", draft)
    if not stem.rstrip().endswith("?"):
        draft = _THIS.sub("which ", draft, count=1)
    return _as_question(draft)


def _singular(noun: str) -> str:
    for plural, singular in (("ies", "y"), ("sses", "ss"), ("ches", "ch"), ("men", "man")):
        if noun.endswith(plural) and len(noun) > len(plural) + 2:
            return noun.removesuffix(plural) + singular
    return noun.removesuffix("s") if re.search(r"[^su']s$", noun) else noun


def _as_question(text: str) -> str:
    text = text.strip()
    dots = "..." if text.endswith("...") else ""
    text = text.rstrip(" .!:;,?") + dots + "?"
    return text[:1].upper() + text[1:]
