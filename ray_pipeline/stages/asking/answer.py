"""Answering the rows' questions with a model, such as one that another run trained."""

from __future__ import annotations

import pyarrow as pa
from pydantic import Field

from ray_pipeline.llm.asking import AnswerError, Llm
from ray_pipeline.stage import AskStage, AskStageConfig, Drop, Expand, Row


class Answer(AskStage):
    """Writes a model's answer to every question: ``model_answer``.

    An answer is stored as it came. If it is empty, or refused by the provider's filter,
    ``model_answer_error`` has the code; if no answer came at all, the row fails, for
    ``ray-pipeline retry``. Rows without a question are dropped (``answer:no_question``). The row's
    own answer, if it has one, is kept for comparison.

    The prompt gets ``question``.
    """

    name = "answer"
    reads = {"question": pa.string()}
    writes = {
        "model_answer": pa.string(),
        "model_answer_error": pa.string(),
    }

    class Config(AskStageConfig):
        llm: str = Field("student", description="language model that answers: a name under `llms`")
        prompt: str = Field(
            "answer", description="prompt file: its name without the suffix, or a path"
        )

    config: Config

    variables = ("question",)

    async def ask(self, row: Row, llm: Llm) -> Row | Drop | Expand:
        """Ask the question."""
        question = row["question"]
        if not question or not question.strip():
            return Drop("answer:no_question")
        try:
            text, code = (await llm(self.prompt, question=question)).text, None
        except AnswerError as error:
            if error.answer is None:
                raise
            text, code = error.answer, error.code
        return {**row, "model_answer": text.strip(), "model_answer_error": code}
