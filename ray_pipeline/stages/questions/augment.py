"""Augmentation: for every question a formal, a casual and a general version, by three models."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from pydantic import Field

from ray_pipeline.llm.asking import AnswerError, Llm
from ray_pipeline.rundir.layout import ORIGINAL
from ray_pipeline.stage import AskStage, AskStageConfig, Drop, Expand, Row
from ray_pipeline.stages.text.answers import Check, is_chatter, is_refusal
from ray_pipeline.stages.text.paraphrases import asks, same_words, tidy, word_count


class Augment(AskStage):
    """Creates a paraphrase of every original row, as a new row.

    Every original gets exactly one new row per stage, whatever the model returns. An answer that
    is empty, cut off or refused by the provider's filter is stored as it came, with its code in
    ``paraphrase_error``, for ``accept-paraphrases`` to drop with a reason. Only a request without
    any answer (the engine or the API failed) fails the original, for ``ray-pipeline retry``. Rows
    that are versions already pass unchanged.

    The prompt gets ``text``, its ``kind`` (``question`` or ``answer``), and the row's ``question``
    and ``answer``.

    Args:
        style: ``version`` of the rows that it makes. The stage's name is ``augment-STYLE``, its
            model by default the one of that name, its prompt ``augment_STYLE``.
        defaults: of the configuration.
    """

    reads = {"question": pa.string(), "answer": pa.string()}
    writes = {
        "question": pa.string(),
        "answer": pa.string(),
        "version": pa.string(),
        "source_question": pa.string(),
        "source_answer": pa.string(),
        "paraphrase_error": pa.string(),
        "note": pa.string(),
    }

    class Config(AskStageConfig):
        llm: str = Field(description="language model that paraphrases: a name under `llms`")
        prompt: str = Field(description="prompt file: its name without the suffix, or a path")
        answer_min_words: int = Field(
            12,
            ge=1,
            description="minimum number of words of an answer that is paraphrased too; shorter "
            "answers are facts and stay unchanged",
        )
        ask_again: bool = Field(
            False,
            description="request a paraphrase again if it is a refusal, a copy or a statement, "
            "up to the model's `reasks`; small models rarely do better the second time",
        )

    config: Config

    def __init__(self, style: str, **defaults: Any) -> None:
        own = {"name": f"augment-{style}", "llm": style, "prompt": f"augment_{style}"}
        super().__init__(**own | defaults)
        self.style = style

    variables = ("question", "answer", "kind", "text")

    async def ask(self, row: Row, llm: Llm) -> Row | Drop | Expand:
        """Ask the model to paraphrase the question and, if it is long, the answer."""
        if row.get("version") not in (None, ORIGINAL):
            return row
        original = {**row, "version": ORIGINAL}
        made = {
            **original,
            "version": self.style,
            "source_question": row["question"],
            "source_answer": row["answer"],
            "note": None,
        }
        await self._paraphrase("question", row, made, llm)
        if word_count(row["answer"]) >= self.config.answer_min_words:
            await self._paraphrase("answer", row, made, llm)
        return Expand(original, [made])

    async def _paraphrase(self, kind: str, row: Row, made: Row, llm: Llm) -> None:
        """Put the paraphrase of ``row[kind]``, or the unusable answer, into ``made``."""
        values = {"kind": kind, "text": row[kind], **_pair(row)}
        check = _check(row[kind], kind) if self.config.ask_again else None
        try:
            found = await llm(self.prompt, check=check, **values)
        except AnswerError as error:
            made |= self.keep(made, f"{kind} as it came", error)
            made[kind] = tidy(error.answer or "", one_line=kind == "question")
            # Refusals and copies are for accept-paraphrases to find: its rules may change.
            made["paraphrase_error"] = error.code if error.code != "unusable" else None
        else:
            made[kind] = tidy(found.text, one_line=kind == "question")


def _pair(row: Row) -> Row:
    return {"question": row["question"], "answer": row["answer"]}


def _check(source: str, kind: str) -> Check:
    def check(text: str) -> str | None:
        text = tidy(text, one_line=kind == "question")
        if not text or is_refusal(text) or is_chatter(text):
            return f"Write only the {kind} in other words"
        if same_words(text, source):
            return "The text is unchanged: use other words"
        if kind == "question" and asks(source) and not asks(text):
            return "Do not answer the question: ask it in other words"
        return None

    return check
