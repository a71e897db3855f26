"""Versions of questions by a scripted model: what is made, whatever it answers."""

import pytest
from support.command import REPOSITORY
from support.stage_tables import ScriptedLlm, ask, expand, settings

from ray_pipeline.llm.asking import AnswerError
from ray_pipeline.llm.prompt import Prompt
from ray_pipeline.stages.questions.augment import Augment
from ray_pipeline.stages.text.paraphrases import asks, same_numbers, same_words, tidy

PROMPTS = REPOSITORY / "configs" / "prompts" / "qa_distillation"
ROW = {"question": "Who wrote Emma?", "answer": "Jane Austen", "topic": "books", "note": "old"}
LONG = "Because warm air rises over the land by day and cool air from the sea takes its place"


def formal(**config):
    return Augment("formal").bound(config, settings("augment_formal"))


class Filtered(ScriptedLlm):
    """Gives no answer but an error of the engine."""

    def __init__(self, code, answer=None):
        super().__init__()
        self.error = AnswerError(code, "detail", answer=answer)

    async def __call__(self, prompt, /, **values):
        raise self.error


def test_a_version_is_made_beside_the_original():
    llm = ScriptedLlm('Sure! Here is a formal version:\n"Which author wrote Emma?"')
    original, [version] = expand(formal(), ROW, llm)
    assert original == {**ROW, "version": "original"}
    assert version == {
        "question": "Which author wrote Emma?",
        "answer": "Jane Austen",
        "topic": "books",
        "note": None,
        "version": "formal",
        "source_question": "Who wrote Emma?",
        "source_answer": "Jane Austen",
    }
    assert llm.asked == [
        {"kind": "question", "text": ROW["question"], "question": ROW["question"]}
        | {"answer": ROW["answer"]}
    ]


def test_long_answers_are_paraphrased_too():
    llm = ScriptedLlm("What causes a sea breeze?", "Air over warm land rises")
    _, [version] = expand(formal(), {"question": "Why is there sea breeze?", "answer": LONG}, llm)
    assert version["answer"] == "Air over warm land rises"
    assert version["source_answer"] == LONG
    assert [values["kind"] for values in llm.asked] == ["question", "answer"]


def test_versions_pass_without_a_request():
    llm = ScriptedLlm()
    row = {**ROW, "version": "formal"}
    stage = Augment("casual").bound(settings=settings("augment_casual"))
    assert ask(stage, row, llm) is row
    assert not llm.asked


@pytest.mark.parametrize("code", ["length", "empty", "content_filter"])
def test_an_unusable_answer_stands_in_the_version_as_it_came(code):
    original, [version] = expand(formal(), ROW, Filtered(code, "Which author of"))
    assert original["note"] == "old"
    assert version["question"] == "Which author of"
    assert version["paraphrase_error"] == code
    assert version["note"] == f"augment-formal: question as it came: llm:{code}: detail"


def test_a_request_without_an_answer_fails_the_original():
    with pytest.raises(AnswerError):
        expand(formal(), ROW, Filtered("timeout"))


def test_refusals_are_kept_for_the_next_stage_to_drop():
    _, [version] = expand(formal(), ROW, ScriptedLlm("I'm sorry, I can't do that."))
    assert version["question"] == "I'm sorry, I can't do that."
    assert "paraphrase_error" not in version


def test_unusable_answers_can_be_asked_again():
    llm = ScriptedLlm("I can't.", "Who wrote Emma", "Jane Austen did.", "By whom was Emma written?")
    _, [version] = expand(formal(ask_again=True), ROW, llm)
    assert version["question"] == "By whom was Emma written?"
    assert [c.split(":")[0] for c in llm.complaints] == [
        "Write only the question in other words",
        "The text is unchanged",
        "Do not answer the question",
    ]
    _, [version] = expand(formal(ask_again=True), ROW, ScriptedLlm("I can't."))
    assert version["question"] == "I can't."
    assert version.get("paraphrase_error") is None
    assert version["note"].startswith("augment-formal: question as it came: llm:unusable")


@pytest.mark.parametrize(
    ("text", "tidied"),
    [
        ("Sure, here's a casual version: Who's it?", "Who's it?"),
        ("Certainly! What is\n it?", "What is it?"),
        ('**Formal version:** "What is it?"', "What is it?"),
        ("Here is the rewritten question:\n\nWhat is it?", "What is it?"),
        ("The rephrased question is: What is it?", "What is it?"),
        ("Here are three gods: which one is Greek?", "Here are three gods: which one is Greek?"),
        ("Sure:", "Sure:"),
        ("Okay", "Okay"),
        ("  ", ""),
    ],
)
def test_what_small_models_wrap_around_is_removed(text, tidied):
    assert tidy(text, one_line=True) == tidied


def test_lines_of_answers_stay():
    assert tidy("Answer: one\ntwo", one_line=False) == "one\ntwo"


@pytest.mark.parametrize(
    ("text", "yes"),
    [("Who?", True), ("Name a river.", True), ("True or false: it rains.", True)]
    + [("It rains.", False), ("", False), ("Naming is hard.", False)],
)
def test_what_asks(text, yes):
    assert asks(text) is yes


def test_texts_are_compared_by_words_and_numbers():
    assert same_words("Who wrote 'Emma'?", "who wrote emma")
    assert not same_words("?", "!")
    assert same_numbers("In 1945, 1,000 men", "1000 men in 1945")
    assert not same_numbers("In 1945", "In 1946")


@pytest.mark.parametrize("style", ["formal", "casual", "general"])
@pytest.mark.parametrize("size", ["", "_large"])
@pytest.mark.parametrize("kind", ["question", "answer"])
def test_the_prompts_render_the_text(style, size, kind):
    prompt = Prompt.load(PROMPTS / f"augment_{style}{size}.yaml")
    said = prompt.render(kind=kind, text=ROW[kind], question=ROW["question"], answer="Jane Austen")
    assert ROW[kind] in said[-1]["content"]
    assert "{{" not in str(said)
