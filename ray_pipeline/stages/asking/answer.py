"""Answering the rows' questions with a model, such as one that another run trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import Field

from ray_pipeline.core.config import AddedWith
from ray_pipeline.llm.asking import AnswerError, Llm
from ray_pipeline.stage import AskStage, AskStageConfig, Drop, Expand, Row


class Answer(AskStage):
    """Writes a model's answer to every question: ``model_answer``.

    A row without a usable answer fails with the reason: the answer is empty, refused by the
    provider's filter, or was cut off before it began. With ``if_unusable: keep`` such a row is kept
    with what arrived, and ``model_answer_error`` has the code. If no answer came at all, the row
    always fails, for ``ray-pipeline retry``. An answer that was cut off, where the prompt allows
    it, has the code ``length`` too. Rows without a question are dropped (``answer:no_question``).
    The row's own answer, if it has one, is kept for comparison.

    The prompt gets ``question``.
    """

    name = "answer"
    reads = {"question": pa.string()}

    class Config(AskStageConfig):
        llm: str = Field("student", description="language model that answers: a name under `llms`")
        prompt: str = Field(
            "answer", description="prompt file: its name without the suffix, or a path"
        )
        if_unusable: Literal["fail", "keep"] = Field(
            "fail",
            description="what happens to a row if the model's answer is empty, refused or "
            "otherwise unusable: it fails with the reason, or it is kept with what arrived and the "
            "code in `model_answer_error`",
        )
        keep_thinking: Annotated[bool, AddedWith(False)] = Field(
            False,
            description="write what a reasoning model thought before it answered to the column "
            "`model_thinking`",
        )

    config: Config

    variables = ("question",)

    @property
    def writes(self) -> Mapping[str, pa.DataType]:
        """The answer and its code; the thinking where the configuration asks for it."""
        columns = {"model_answer": pa.string(), "model_answer_error": pa.string()}
        return columns | ({"model_thinking": pa.string()} if self.config.keep_thinking else {})

    async def ask(self, row: Row, llm: Llm) -> Row | Drop | Expand:
        """Ask the question."""
        question = row["question"]
        if not question or not question.strip():
            return Drop("answer:no_question")
        thinking = None
        try:
            answer = await llm(self.prompt, question=question)
            text, code = answer.text, "length" if answer.is_cut else None
            thinking = answer.thinking or None
        except AnswerError as error:
            if error.answer is None or self.config.if_unusable == "fail":
                raise
            text, code = error.answer, error.code
        answered = {**row, "model_answer": text.strip(), "model_answer_error": code}
        return answered | ({"model_thinking": thinking} if self.config.keep_thinking else {})
