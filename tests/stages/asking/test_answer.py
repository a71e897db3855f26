"""A model's answers beside the rows' own; a row without a usable answer fails."""

import asyncio

import pytest
from support.stage_tables import ScriptedLlm, ask, settings

from ray_pipeline.llm.asking import Answer as Answering
from ray_pipeline.llm.asking import AnswerError
from ray_pipeline.rundir.responses import Response
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


@pytest.mark.parametrize("code", ["empty", "length", "content_filter"])
def test_a_row_without_a_usable_answer_fails_with_the_reason(code):
    """By default: an empty answer is nothing to train on."""
    with pytest.raises(AnswerError, match=f"llm:{code}: why"):
        ask(STAGE, ROW, FailingLlm(AnswerError(code, "why", answer="")))


def test_a_row_without_a_usable_answer_is_kept_where_asked_for():
    stage = Answer().bound({"if_unusable": "keep"}, settings("answer"))
    made = ask(stage, ROW, FailingLlm(AnswerError("empty", "the answer is empty", answer="")))
    assert (made["model_answer"], made["model_answer_error"]) == ("", "empty")
    with pytest.raises(AnswerError, match="llm:timeout"):
        ask(stage, ROW, FailingLlm(AnswerError("timeout")))


class RespondingLlm:
    def __init__(self, response: Response) -> None:
        self.response = response

    async def __call__(self, prompt, /, **values):
        return Answering(self.response.text, self.response.text, self.response)


def test_an_answer_that_was_cut_off_and_used_is_marked():
    made = ask(STAGE, ROW, RespondingLlm(Response("Jane", "length", 1, 1)))
    assert (made["model_answer"], made["model_answer_error"]) == ("Jane", "length")


def test_thinking_gets_a_column_where_asked_for():
    llm = RespondingLlm(Response("Austen", "stop", 1, 1, thinking="Emma is by her."))
    assert "model_thinking" not in ask(STAGE, ROW, llm)
    stage = Answer().bound({"keep_thinking": True}, settings("answer"))
    assert ask(stage, ROW, llm)["model_thinking"] == "Emma is by her."
    assert "model_thinking" in stage.writes
    assert "model_thinking" not in STAGE.writes


def test_without_any_answer_the_row_fails():
    with pytest.raises(AnswerError, match="llm:timeout"):
        ask(STAGE, ROW, FailingLlm(AnswerError("timeout")))


@pytest.mark.parametrize("question", [None, " \n"])
def test_a_row_without_a_question_is_dropped_unasked(question):
    llm = ScriptedLlm()
    dropped = asyncio.run(STAGE.ask({**ROW, "question": question}, llm))
    assert dropped == Drop("answer:no_question")
    assert llm.asked == []
