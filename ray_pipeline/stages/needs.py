"""Which rows need their question rephrased: named conditions, computed from the row alone.

A row goes to a model only where one of the conditions that `needs` lists holds. What a
text looks like is judged on the present text, so a question that one model mended is not
mended again; a condition about the row's past (how it was made, what it shares with other rows)
is met by any rephrasing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

from ray_pipeline.stage import Row
from ray_pipeline.stages import choices
from ray_pipeline.stages.answer_checks import has_blank
from ray_pipeline.stages.paraphrases import asks

Need = Literal[
    "not_a_question",
    "no_question_word",
    "made_by_rule",
    "has_blank",
    "refers_to_options",
    "shares_question",
    "shares_answer",
    "rephrased",
]

_ASKING_WORD = re.compile(
    r"\b(?:what|which|who|whom|whose|when|where|why|how|whether)\b|(?:^|[,;:.]\s*)(?:is|are|was"
    r"|were|am|do|does|did|has|have|had|can|could|will|would|shall|should|may|might|must"
    r"|isn't|aren't|wasn't|weren't|don't|doesn't|didn't|can't|true|false|yes)\b",
    re.IGNORECASE,
)
_BY_RULE = re.compile(
    r"\b(?:fill-in-blank|multiple-choice): (?:converted by rule|kept the (?:stem|old question))"
)


def is_rephrased(row: Row) -> bool:
    """Whether a rephrasing stage changed the row's question already."""
    return row.get("question_before_rephrasing") is not None


def _not_a_question(row: Row) -> bool:
    """No question mark, no order ("Name ..."), no "True or false: ..."."""
    return not asks(row["question"])


def _no_question_word(row: Row) -> bool:
    """It ends with a question mark, but only that asks: "Capital of France?"."""
    question: str = row["question"]
    return question.rstrip().endswith("?") and not _ASKING_WORD.search(question)


def _made_by_rule(row: Row) -> bool:
    """A conversion got no usable question and kept a draft made by rule, as `note` says."""
    return bool(_BY_RULE.search(row.get("note") or "")) and not is_rephrased(row)


def _has_blank(row: Row) -> bool:
    """A blank to fill in is left."""
    return has_blank(row["question"])


def _refers_to_options(row: Row) -> bool:
    """It makes sense only with its options: "Which of these ..."."""
    return choices.refers_to_options(row["question"])


def _shares_question(row: Row) -> bool:
    """Another row asks the same and has another answer (`same_question_group`)."""
    return row.get("same_question_group") is not None and not is_rephrased(row)


def _shares_answer(row: Row) -> bool:
    """Another row asks something else and has the same answer (`same_answer_group`)."""
    return row.get("same_answer_group") is not None and not is_rephrased(row)


NEEDS: dict[Need, Callable[[Row], bool]] = {
    "not_a_question": _not_a_question,
    "no_question_word": _no_question_word,
    "made_by_rule": _made_by_rule,
    "has_blank": _has_blank,
    "refers_to_options": _refers_to_options,
    "shares_question": _shares_question,
    "shares_answer": _shares_answer,
    "rephrased": is_rephrased,
}


def found_needs(row: Row, needs: Sequence[Need]) -> list[Need]:
    """Those of the conditions that hold for a row, in the order given."""
    return [need for need in needs if NEEDS[need](row)]
