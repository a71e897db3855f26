"""A model's answers are kept as they came; only a request without any answer fails its row."""

import asyncio

import pytest
from support.stage_tables import ScriptedLlm, ask, settings

from ray_pipeline.llm.asking import AnswerError
from ray_pipeline.stage import Drop
from ray_pipeline.stages.asking.answer import Answer

STAGE = Answer().bound(Answer.Config(), settings("answer"))
ROW = {"question": "Who wrote Emma?", "answer": "Jane Austen"}


class FailingLlm:
    def __init__(self, error: AnswerError) -> None:
        self.error = error

    async def __call__(self, prompt, /, **values):
        raise self.error


def test_the_answer_stands_beside_the_rows_own():
    llm = ScriptedLlm(" Austen\n")
    made = ask(STAGE, ROW, llm)
    assert made == {**ROW, "model_answer": "Austen", "model_answer_error": None}
    assert llm.asked == [{"question": "Who wrote Emma?"}]


def test_an_empty_answer_is_an_answer_with_a_code():
    made = ask(STAGE, ROW, FailingLlm(AnswerError("empty", "the answer is empty", answer="")))
    assert (made["model_answer"], made["model_answer_error"]) == ("", "empty")


def test_without_any_answer_the_row_fails():
    with pytest.raises(AnswerError, match="llm:timeout"):
        ask(STAGE, ROW, FailingLlm(AnswerError("timeout")))


@pytest.mark.parametrize("question", [None, " \n"])
def test_a_row_without_a_question_is_dropped_unasked(question):
    llm = ScriptedLlm()
    dropped = asyncio.run(STAGE.ask({**ROW, "question": question}, llm))
    assert dropped == Drop("answer:no_question")
    assert llm.asked == []
