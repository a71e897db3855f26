"""Fill-in-the-blank and multiple choice, with a scripted model."""

import pytest
from support.command import REPOSITORY
from support.stage_tables import ScriptedLlm, ask, settings, table

from ray_pipeline.llm.asking import AnswerError
from ray_pipeline.llm.prompt import Prompt
from ray_pipeline.stages.questions import rewriting as drafts
from ray_pipeline.stages.questions.fill_in_blank import FillInBlank
from ray_pipeline.stages.questions.multiple_choice import MultipleChoice
from ray_pipeline.stages.text import answers as answer_checks

PROMPTS = REPOSITORY / "configs" / "prompts" / "qa_distillation"
BLANK = {"question": "The capital of France is ____.", "answer": "Paris", "extra": 1}
ROW = {
    "question": "This city is the capital of France. (A) Paris (B) Rome",
    "answer": "Paris",
    "choices": ["Paris", "Rome"],
}


def fill(**config):
    return FillInBlank().bound(FillInBlank.Config(**config), settings("fill_in_blank"))


def convert(**config):
    return MultipleChoice().bound(MultipleChoice.Config(**config), settings("multiple_choice"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "empty"),
        ("What is the capital\nof France?", "one line"),
        ("I'm sorry, but what is the capital of France?", "only the question"),
        ("Sure! What is the capital of France?", "only the question"),
        ("The capital of France is what.", "question mark"),
        ("What is the capital of France" + ", please" * 9 + "?", "too long"),
        ("What?", "not complete"),
        ("What capital of France is the?", "not complete"),
        ("What capital of France is ___?", "no blank"),
        ("The capital of France is?", "question word"),
        ("Why is Paris the capital of France?", "contain the answer"),
        ("Which river flows through Egypt?", "facts and names"),
        ("What is the capital of France?", None),
    ],
)
def test_what_makes_a_question_unusable(text, complaint):
    check = answer_checks.question_check("The capital of France is ____.", "Paris", 0.5, 70)
    found = check(text)
    assert (found is None) if complaint is None else complaint in str(found)


def test_an_answer_that_the_original_names_may_stay():
    check = answer_checks.question_check("Is it red or blue? It is ____.", "Blue", 0.5, 70)
    assert check("Which is it, red or blue?") is None


def test_words_are_compared_whole():
    assert answer_checks.contains_text("What is an eagle?", "Eagle.")
    assert not answer_checks.contains_text("What is an eagle?", "eag")
    assert not answer_checks.contains_text("What is it?", "?!")


def test_a_blank_becomes_a_question():
    llm = ScriptedLlm("Paris is the capital.", "What is the capital of France?")
    assert ask(fill(), BLANK, llm) == {
        **BLANK,
        "question": "What is the capital of France?",
        "original_question": BLANK["question"],
    }
    assert llm.asked == [
        {
            "question": BLANK["question"],
            "answer": "Paris",
            "draft": "The capital of France is what?",
        }
    ]


def test_rows_without_a_blank_pass_untouched():
    row = {"question": "What is snake_case?", "answer": "a __ style"}
    llm = ScriptedLlm()
    assert ask(fill(), row, llm) is row
    assert not llm.asked


def test_options_stay_behind_the_new_question():
    row = {"question": "The capital of France is ____. (A) Paris (B) Rome", "answer": "a"}
    llm = ScriptedLlm("What is the capital of France?")
    result = ask(fill(), row, llm)
    assert result["question"] == "What is the capital of France? (A) Paris (B) Rome"
    assert llm.asked[0]["question"] == "The capital of France is ____."
    assert llm.asked[0]["answer"] == "Paris"


def test_no_usable_answer_fails_the_row_or_keeps_it_with_a_note():
    with pytest.raises(AnswerError):
        ask(fill(), BLANK, ScriptedLlm("no"))
    by_rule = ask(fill(if_unusable="keep"), BLANK, ScriptedLlm("no"))
    assert by_rule["question"] == "The capital of France is what?"
    assert by_rule["original_question"] == BLANK["question"]
    assert by_rule["note"].startswith("fill-in-blank: converted by rule: llm:unusable")
    hopeless = {"question": "Name ____.", "answer": "it"}
    kept = ask(fill(if_unusable="keep"), hopeless, ScriptedLlm("no"))
    assert kept["question"] == "Name ____."
    assert kept["note"].startswith("fill-in-blank: kept the old question: llm:unusable")
    assert "original_question" not in kept


def test_choices_become_a_question_that_stands_alone():
    llm = ScriptedLlm(
        "Which of these cities is the capital of France?",
        "Is the capital of France (A) this or (B) what?",
        "Which city is the capital of France?",
    )
    result = ask(convert(), ROW, llm)
    assert result["question"] == "Which city is the capital of France?"
    assert result["original_question"] == ROW["question"]
    assert [c.startswith("The question must not mention") for c in llm.complaints] == [True, True]
    assert llm.asked[0] == {
        "question": "This city is the capital of France.",
        "options": ["Paris", "Rome"],
        "answer": "Paris",
        "draft": "Which city is the capital of France?",
    }


def test_rows_that_are_not_multiple_choice_pass_untouched():
    row = {"question": "What is it?", "answer": "x", "choices": None}
    assert ask(convert(), row, ScriptedLlm()) is row


@pytest.mark.parametrize(
    ("question", "options", "expected"),
    [
        (
            "Snakes are deaf. (A) True (B) False",
            ["True", "False"],
            "True or false: Snakes are deaf.",
        ),
        ("Snakes are deaf. (A) No (B) Yes", ["No", "Yes"], "Yes or no: Snakes are deaf."),
        ("Are snakes deaf? (A) Yes (B) No", ["Yes", "No"], "Are snakes deaf?"),
        (
            "True or false: snakes hear. (A) True (B) False",
            ["True", "False"],
            "True or false: snakes hear.",
        ),
    ],
)
def test_statements_that_are_true_or_false_need_no_model(question, options, expected):
    row = {"question": question, "answer": options[0], "choices": options}
    llm = ScriptedLlm()
    assert ask(convert(), row, llm)["question"] == expected
    assert not llm.asked


def test_when_needed_takes_questions_that_stand_alone_as_they_are():
    row = {**ROW, "question": "What is the capital of France? (A) Paris (B) Rome"}
    llm = ScriptedLlm("Which city is the capital of France?")
    assert ask(convert(rewrite="when_needed"), row, llm)["question"].startswith("What is")
    assert not llm.asked
    assert ask(convert(), row, llm)["question"] == "Which city is the capital of France?"


def test_a_question_made_by_fill_in_blank_is_not_paid_for_twice():
    row = {
        **ROW,
        "question": "What is the capital of France? (A) Paris (B) Rome",
        "original_question": "The capital of France is __. (A) Paris (B) Rome",
    }
    llm = ScriptedLlm()
    result = ask(convert(), row, llm)
    assert result["question"] == "What is the capital of France?"
    assert result["original_question"] == row["original_question"]
    assert not llm.asked


def test_keep_falls_back_to_the_draft_or_the_stem():
    result = ask(convert(if_unusable="keep"), ROW, ScriptedLlm("I cannot."))
    assert result["question"] == "Which city is the capital of France?"
    assert result["note"].startswith("multiple-choice: converted by rule")
    row = {**ROW, "question": "Name a capital. (A) Paris (B) Rome"}
    result = ask(convert(if_unusable="keep"), row, ScriptedLlm("I cannot."))
    assert result["question"] == "Name a capital."
    assert result["note"].startswith("multiple-choice: kept the stem")


def test_a_request_that_failed_is_no_unusable_answer():
    """The row fails, so that `ray-pipeline retry` asks again."""
    with pytest.raises(AnswerError):
        ask(convert(if_unusable="keep"), ROW, ScriptedLlm())


@pytest.mark.parametrize(
    ("sentence", "draft"),
    [
        ("Insects have ___ legs.", "Insects have what legs?"),
        (
            "A polygon with five sides is called a ____.",
            "A polygon with five sides is called what?",
        ),
        ("What is missing: 1, 2, ____, 4?", "What is missing: 1, 2, ..., 4?"),
        ("In which year was ____ built", "In which year was ... built?"),
    ],
)
def test_drafts_of_blanks(sentence, draft):
    assert drafts.draft_of_blank(sentence) == draft


@pytest.mark.parametrize(
    ("stem", "draft"),
    [
        ("This country is shaped like a boot.", "Which country is shaped like a boot?"),
        ("Schiphol is the airport of this city.", "Schiphol is the airport of which city?"),
        ("Which of these animals is a reptile?", "Which animal is a reptile?"),
        ("Which one of the following countries is largest?", "Which country is largest?"),
        ("Which of these is a reptile?", "What is a reptile?"),
        ("This is a reptile.", "This is a reptile?"),
        ("What is this animal called?", "What is this animal called?"),
    ],
)
def test_drafts_without_options(stem, draft):
    assert drafts.draft_without_options(stem) == draft


@pytest.mark.parametrize(
    "text",
    [
        '"What is it?"',
        "Question: What is it?",
        "**What is it?**",
        " Draft question: 'What is it?' ",
    ],
)
def test_wrappings_of_small_models_are_taken_off(text):
    assert answer_checks.tidy_question(text) == "What is it?"


@pytest.mark.parametrize("name", ["fill_in_blank", "multiple_choice"])
@pytest.mark.parametrize("size", ["", "_large"])
def test_the_prompts_use_only_what_the_stages_give(name, size):
    prompt = Prompt.load(PROMPTS / f"{name}{size}.yaml")
    values = {"question": "Q", "answer": "A", "draft": "D"}
    if name == "multiple_choice":
        values["options"] = ["A", "B"]
    assert prompt.variables() <= set(values)
    assert prompt.render(**values)


def test_exports_show_before_and_after():
    rows = table(
        [("new", "a"), ("same", "b")], original_question=["old", None], choices=["x", None]
    )
    exported = MultipleChoice().bound(settings=settings("multiple_choice")).exported(rows)
    assert exported.to_pylist() == [
        {
            "row_id": "row0",
            "original_question": "old",
            "question": "new",
            "answer": "a",
            "choices": "x",
        }
    ]


def test_the_prompts_text_is_part_of_the_identity():
    stage = fill()
    assert stage.identity()["prompt"]["user"] == "fill_in_blank"
