"""Rephrasing in two turns, with a scripted model."""

import pyarrow as pa
import pytest
from support.command import REPOSITORY
from support.stage_tables import ScriptedLlm, ask, settings, table

from ray_pipeline.core.rows import set_column
from ray_pipeline.llm.asking import AnswerError
from ray_pipeline.llm.prompt import Prompt
from ray_pipeline.stages.questions.rephrase import (
    NEEDS,
    Rephrase,
    found_needs,
)

PROMPTS = REPOSITORY / "configs" / "prompts" / "qa_distillation"
STATEMENT = {"question": "This city is the capital of France.", "answer": "Paris", "extra": 1}
LONG = "Because warm air rises over the land by day and cool air from the sea takes its place"


def first(**config):
    return Rephrase("first").bound(config, settings("rephrase"))


def second(**config):
    return Rephrase("second").bound(config, settings("rephrase"))


@pytest.mark.parametrize(
    ("row", "needs"),
    [
        ({"question": "What is it?"}, []),
        ({"question": "Name a river."}, []),
        ({"question": "True or false: it rains."}, []),
        ({"question": "Is it red?"}, []),
        ({"question": "In Rome, is it red?"}, []),
        ({"question": "It rains."}, ["not_a_question"]),
        ({"question": "Capital of France?"}, ["no_question_word"]),
        ({"question": "What is ___?"}, ["has_blank"]),
        ({"question": "Which of these is red?"}, ["refers_to_options"]),
        (
            {"question": "It is what?", "note": "fill-in-blank: converted by rule: llm:empty"},
            ["made_by_rule"],
        ),
        (
            {"question": "What?", "note": "x; multiple-choice: kept the stem: llm:unusable"},
            ["made_by_rule"],
        ),
        ({"question": "What?", "note": "rephrase-first: kept the question: llm:empty"}, []),
        (
            {"question": "What?", "same_question_group": "g", "same_answer_group": "h"},
            ["shares_question", "shares_answer"],
        ),
        (
            {"question": "What?", "same_question_group": "g", "question_before_rephrasing": "x"},
            ["rephrased"],
        ),
    ],
)
def test_needs(row, needs):
    assert found_needs(row, tuple(NEEDS)) == needs


def test_rows_without_a_need_pass_without_a_request():
    row = {"question": "What is it?", "answer": "x"}
    llm = ScriptedLlm()
    assert ask(first(), row, llm) is row
    assert not llm.asked


def test_a_statement_becomes_a_question_and_needs_no_second_turn():
    llm = ScriptedLlm("Sure! Here is the question: Which city is the capital of France?")
    row = ask(first(), STATEMENT, llm)
    assert row == {
        **STATEMENT,
        "question": "Which city is the capital of France?",
        "question_before_rephrasing": STATEMENT["question"],
        "rephrased_by": "rephrase-first",
        "rephrase_needs": "not_a_question",
    }
    assert llm.asked == [
        {
            "kind": "question",
            "text": STATEMENT["question"],
            "draft": "Which city is the capital of France?",
            "question": STATEMENT["question"],
            "answer": "Paris",
        }
    ]
    assert ask(second(), row, ScriptedLlm()) is row


def test_the_second_model_can_polish_what_the_first_made():
    row = ask(first(), STATEMENT, ScriptedLlm("Which city is the capital of France?"))
    polished = ask(second(needs=["rephrased"]), row, ScriptedLlm("What is France's capital city?"))
    assert polished["question"] == "What is France's capital city?"
    assert polished["question_before_rephrasing"] == STATEMENT["question"]
    assert polished["rephrased_by"] == "rephrase-first, rephrase-second"


def test_what_the_first_model_left_is_the_seconds():
    row = ask(first(), STATEMENT, ScriptedLlm("I cannot."))
    assert row["question"] == STATEMENT["question"]
    assert row["note"].startswith("rephrase-first: kept the question: llm:unusable")
    assert "question_before_rephrasing" not in row
    row = ask(second(), row, ScriptedLlm("What is the capital city of France?"))
    assert row["question"] == "What is the capital city of France?"
    assert row["rephrased_by"] == "rephrase-second"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("Why is Paris the capital of France?", "contain the answer"),
        ("Which river flows through Egypt?", "facts and names"),
        ("What is the capital of France in 1900?", "numbers"),
        ("The capital of France.", "question mark"),
        ("Which of these is the capital of France?", "options"),
    ],
)
def test_what_makes_a_rephrasing_unusable(text, complaint):
    llm = ScriptedLlm(text)
    ask(first(), STATEMENT, llm)
    assert complaint in llm.complaints[0]


def test_an_unchanged_question_is_no_rephrasing():
    row = {"question": "What is red?", "answer": "a rose", "same_question_group": "g"}
    llm = ScriptedLlm("what is red?")
    assert ask(first(), row, llm)["question"] == "What is red?"
    assert "unchanged" in llm.complaints[0]


def test_short_answers_are_facts_and_long_ones_are_reworded():
    row = {"question": "Sea breeze blows by day.", "answer": LONG}
    reworded = "Since warm air rises over land by day, cool air from the sea takes its place."
    llm = ScriptedLlm("Why does the sea breeze blow by day?", reworded)
    result = ask(first(), row, llm)
    assert (result["answer"], result["answer_before_rephrasing"]) == (reworded, LONG)
    assert llm.asked[1]["kind"] == "answer"
    llm = ScriptedLlm("Why does the sea breeze blow by day?", "Wind.")
    result = ask(first(), row, llm)
    assert result["answer"] == LONG
    assert result["question"] == "Why does the sea breeze blow by day?"
    assert result["note"].startswith("rephrase-first: kept the answer")


def test_no_usable_text_can_fail_the_row_and_no_answer_always_does():
    with pytest.raises(AnswerError):
        ask(first(if_unusable="fail"), STATEMENT, ScriptedLlm("I cannot."))
    with pytest.raises(AnswerError):
        ask(first(), STATEMENT, ScriptedLlm())


def test_the_export_has_the_kept_rows_before_and_after():
    rows = table([("q", "a"), ("r", "b")], extra=["x", "y"])
    for name in Rephrase.writes:
        if name not in rows.column_names:
            rows = set_column(rows, name, pa.nulls(2, pa.string()))
    rows = set_column(rows, "status", pa.array(["kept", "failed"]))
    exported = second().exported(rows)
    assert exported.num_rows == 1
    assert exported.column_names == [
        "row_id",
        "question_before_rephrasing",
        "question",
        "answer_before_rephrasing",
        "answer",
        "rephrased_by",
        "rephrase_needs",
        "extra",
        "note",
    ]


@pytest.mark.parametrize("name", ["rephrase", "rephrase_large"])
@pytest.mark.parametrize("kind", ["question", "answer"])
def test_the_prompts_render_the_text(name, kind):
    prompt = Prompt.load(PROMPTS / f"{name}.yaml")
    said = prompt.render(kind=kind, text=LONG, draft=LONG, question=LONG, answer=LONG)
    assert LONG in said[-1]["content"]
