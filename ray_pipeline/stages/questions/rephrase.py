"""Rephrasing: two models in turn reword the questions that need it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from ray_pipeline.core.rows import data_columns, kept
from ray_pipeline.llm.asking import AnswerError, Llm
from ray_pipeline.stage import AskStage, Drop, Expand, Row
from ray_pipeline.stages.questions import choices
from ray_pipeline.stages.questions.rewriting import RewriteConfig, draft_without_options
from ray_pipeline.stages.text.answers import Check, has_blank, is_chatter, is_refusal, shared_words
from ray_pipeline.stages.text.paraphrases import asks, same_numbers, same_words, tidy, word_count


def _lost(old: str, new: str) -> str | None:
    if same_words(old, new):
        return "The text is unchanged: use other words."
    return None if same_numbers(old, new) else "Keep all numbers of the original, and no others."


class Rephrase(AskStage):
    """Rewords the question, and a long answer with it, of the rows that need it (``needs``).

    Every other row passes unchanged, without a request. ``question_before_rephrasing`` and
    ``answer_before_rephrasing`` hold the texts from before the first rephrasing, ``rephrased_by``
    names the stages that changed a row, and ``rephrase_needs`` says why the last one asked.

    The prompt gets ``text``, its ``kind`` (``question`` or ``answer``), ``draft`` (made by rule
    from a statement, else the text), and the row's ``question`` and ``answer``.

    Args:
        turn: the stage's name is ``rephrase-TURN``, its model by default ``rephraser_TURN``. A
            second turn handles rows that the first one left in need, or rephrased (`rephrased`).
        export: name of the exported file with all kept rows.
        defaults: of the configuration.
    """

    reads = {"question": pa.string(), "answer": pa.string()}
    writes = {
        "question": pa.string(),
        "answer": pa.string(),
        "question_before_rephrasing": pa.string(),
        "answer_before_rephrasing": pa.string(),
        "rephrased_by": pa.string(),
        "rephrase_needs": pa.string(),
        "note": pa.string(),
    }

    class Config(RewriteConfig):
        llm: str = Field(description="language model that rephrases: a name under `llms`")
        prompt: str = Field(
            "rephrase", description="prompt file: its name without the suffix, or a path"
        )
        needs: tuple[Need, ...] = Field(
            (
                "not_a_question",
                "no_question_word",
                "made_by_rule",
                "has_blank",
                "refers_to_options",
                "shares_question",
            ),
            description="rephrase a row if any of these conditions holds; further conditions are "
            "`shares_answer` and `rephrased` (an earlier stage rephrased the row)",
        )
        if_unusable: Literal["fail", "keep"] = Field(
            "keep",
            description="what happens to a row if the model gives no usable rephrasing: it keeps "
            "its text and gets a `note`, or it fails",
        )
        answer_min_words: int = Field(
            12,
            ge=1,
            description="minimum number of words of an answer that is rephrased too; shorter "
            "answers are facts and stay unchanged",
        )

        def question_check(self, question: str, answer: str) -> Check:
            """The check of a question that replaces ``question``."""
            usable = self.check(question, answer)

            def check(text: str) -> str | None:
                text = tidy(text, one_line=True)
                if choices.refers_to_options(text):
                    return "The question must not mention options: ask it without them."
                return usable(text) or _lost(question, text)

            return check

        def answer_check(self, answer: str) -> Check:
            """The check of a text that replaces ``answer``."""

            def check(text: str) -> str | None:
                text = tidy(text, one_line=False)
                if not text or is_refusal(text) or is_chatter(text):
                    return "Write only the answer itself."
                if not 0.5 * len(answer) <= len(text) <= self.max_growth * len(answer):
                    return "The answer must be about as long as the original."
                if shared_words(answer, text) < self.min_shared_words:
                    return "The answer must keep the facts and names of the original."
                return _lost(answer, text)

            return check

    config: Config

    def __init__(self, turn: str, *, export: str | None = None, **defaults: Any) -> None:
        super().__init__(**{"name": f"rephrase-{turn}", "llm": f"rephraser_{turn}", **defaults})
        self.export = export

    variables = ("question", "answer", "kind", "text", "draft")

    async def ask(self, row: Row, llm: Llm) -> Row | Drop | Expand:
        """Ask the model to reword the row if it needs it."""
        needs = found_needs(row, self.config.needs)
        if not needs:
            return row
        row = {**row, "rephrase_needs": ", ".join(needs)}
        question, answer = row["question"], row["answer"]
        changed = await self._rephrase(row, "question", llm, question, answer)
        if word_count(answer) >= self.config.answer_min_words:
            changed = await self._rephrase(changed, "answer", llm, question, answer)
        if changed["question"] == question and changed["answer"] == answer:
            return changed
        by = ", ".join(filter(None, (row.get("rephrased_by"), self.name)))
        return {**changed, "rephrased_by": by}

    async def _rephrase(self, row: Row, kind: str, llm: Llm, question: str, answer: str) -> Row:
        """The row with its question or answer reworded, or with a note that says why not."""
        if kind == "question":
            check = self.config.question_check(question, answer)
            draft = question if asks(question) else draft_without_options(question)
        else:
            check, draft = self.config.answer_check(answer), answer
        values = {"kind": kind, "text": row[kind], "draft": draft}
        try:
            found = await llm(self.prompt, check=check, question=question, answer=answer, **values)
        except AnswerError as error:
            return self.keep(row, f"kept the {kind}", error)
        before = f"{kind}_before_rephrasing"
        old = row[kind] if row.get(before) is None else row[before]
        return {**row, kind: tidy(found.text, one_line=kind == "question"), before: old}

    def exported(self, rows: pa.Table) -> pa.Table:
        """The kept rows; rephrased rows also have their original texts."""
        first = ["row_id", "question_before_rephrasing", "question"]
        first += ["answer_before_rephrasing", "answer", "rephrased_by", "rephrase_needs"]
        rows = kept(rows)
        others = [column for column in data_columns(rows) if column not in first]
        return rows.select(first + others)


# Which rows need their question rephrased: named conditions, computed from the row alone.
#
# A row is sent to a model only if one of the conditions in `needs` holds. What a
# text looks like is judged on the current text, so a question that one model repaired is not
# repaired again; a condition about the row's past (how it was made, what it shares with others)
# is met by any rephrasing.
#

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
    """It ends with a question mark but has no question word: "Capital of France?"."""
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
    """The conditions that hold for a row, in the order given."""
    return [need for need in needs if NEEDS[need](row)]
