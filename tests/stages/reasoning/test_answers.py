"""Which answers are usable, what a vote says, and what a blind reader sees."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.command import REPOSITORY

from ray_pipeline.core.errors import UserError
from ray_pipeline.llm.prompt import Prompt
from ray_pipeline.llm.types import AnswerFormat
from ray_pipeline.stages.reasoning.answer_schema import answer_fields, wrong_answer
from ray_pipeline.stages.reasoning.pair_text import PairFormat
from ray_pipeline.stages.reasoning.reflection_text import (
    mentions_being_told,
    similarity,
    without_labels,
)
from ray_pipeline.stages.reasoning.votes import vote

LABELS = ("entailment", "neutral", "contradiction")
PROMPTS = REPOSITORY / "configs" / "prompts" / "nli_reasoning"


def schema(**properties: Any) -> Prompt:
    form = {"type": "object", "properties": properties, "required": list(properties)}
    return Prompt("p", None, "x", {}, AnswerFormat("json", (), form))


TEXT = {"type": "string", "maxLength": 50}
LABEL = {"type": "string", "enum": list(LABELS)}


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (schema(label=LABEL, reasoning=TEXT), "label must be the last"),
        (schema(reasoning={"type": "string"}, label=LABEL), "maxLength"),
        (schema(reasoning=TEXT, label={"enum": ["yes", "no"]}), "enum"),
        (Prompt("p", None, "x", {}, AnswerFormat()), "format: json"),
    ],
)
def test_a_schema_that_lets_no_reasoning_come_before_a_label_is_refused(
    prompt: Prompt, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        answer_fields(prompt, LABELS)


@pytest.mark.parametrize("name", ["think", "think_small", "reflect", "reflect_small"])
def test_the_shipped_prompts_have_usable_schemas(name: str) -> None:
    fields = answer_fields(Prompt.load(PROMPTS / f"{name}.yaml"), LABELS)
    assert fields.texts and "label" not in fields.texts


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ('{"reasoning": "Cats are animals.", "label": "entailment"}', None),
        ('{"reasoning": " ", "label": "entailment"}', "empty"),
        ('{"reasoning": "ok", "label": "neutral", "label": "entailment"}', "two labels"),
        ('{"reasoning": "猫は動物です。", "label": "entailment"}', "another language"),
        ('{"reasoning": "It is. So it is neutral.", "label": "entailment"}', "concludes 'neutral'"),
        ('{"reasoning": "So it is not neutral.", "label": "entailment"}', None),
    ],
)
def test_answers_that_fit_the_schema_may_still_be_wrong(answer: str, complaint: str | None) -> None:
    fields = answer_fields(schema(reasoning=TEXT, label=LABEL), LABELS)
    found = wrong_answer(answer, fields, "A cat sits.")
    assert (found is None) if complaint is None else (complaint in (found or ""))


def test_slots_become_lines() -> None:
    fields = answer_fields(schema(shared=TEXT, so_far=TEXT, label=LABEL), LABELS)
    made = fields.thoughts({"shared": " dog ", "so_far": "x", "label": "neutral"})
    assert made == "Shared: dog\nSo far: x"


def test_an_answer_that_cannot_be_read_abstains() -> None:
    found = vote([None, "a", "b", "b", None], "t")
    assert (found.label, found.share, found.winner) == ("b", 0.4, 2)
    assert vote([None, None], "t").label is None


@given(st.lists(st.sampled_from([*LABELS, None]), min_size=1, max_size=9), st.text(max_size=5))
def test_a_vote_depends_on_counts_alone(labels: list[str | None], tie: str) -> None:
    found = vote(labels, tie)
    assert found.label == vote(labels[::-1], tie).label
    counted = [label for label in labels if label is not None]
    assert (found.label is None) == (not counted)
    if found.label is not None:
        assert counted.count(found.label) == max(map(counted.count, counted))


def test_ties_favour_no_label() -> None:
    winners = {vote(["a", "b"], f"pair {number}").label for number in range(50)}
    assert winners == {"a", "b"}


@pytest.mark.parametrize(
    "text",
    [
        "The true label is neutral.",
        "As we were told, it does not follow.",
        "The previous reasoning missed the negation.",
        "Because it is labeled as neutral, it may be.",
        "The ground truth says so.",
    ],
)
def test_a_reasoning_that_shows_it_was_told_is_found(text: str) -> None:
    assert mentions_being_told(text)


def test_a_reasoning_that_stands_alone_is_not_accused() -> None:
    for text in (
        "A dog is an animal, so whoever sees a dog sees an animal.",
        "The premise says that the man sleeps; nobody can sleep and run.",
        "Nothing is said about the colour of the car.",
    ):
        assert mentions_being_told(text) is None


def test_a_first_reasoning_with_something_added_is_still_the_first() -> None:
    first = "The dog runs in the park and the cat watches it from a tree."
    assert similarity(first + " This settles the matter entirely.", first) == 1
    assert similarity("Nothing tells us whether the animal is tired.", first) == 0
    assert similarity("", "") == 1


def test_a_blind_reader_sees_no_verdict() -> None:
    text = (
        "A man sleeps. This entails that he rests. Therefore he is not awake.\nLabel: neutral\n"
        "Sleeping excludes running."
    )
    assert without_labels(text, LABELS) == "A man sleeps. Sleeping excludes running."
    assert without_labels("Therefore, contradiction.", LABELS) == ""


@given(st.text(min_size=1), st.text(min_size=1), st.sampled_from(LABELS), st.text(max_size=40))
def test_an_answer_reads_back_as_it_was_written(
    premise: str, hypothesis: str, label: str, reasoning: str
) -> None:
    form = PairFormat()
    asked = form.ask(premise, hypothesis)
    assert asked.count(premise) >= 1 and asked.count(hypothesis) >= 1
    reply = form.reply(label, reasoning)
    if not reasoning.strip():
        assert reply is None
    else:
        assert reply is not None
        assert form.read(reply, LABELS) == (label, reasoning.strip())


def test_label_words_are_read_back_and_other_words_are_no_label() -> None:
    words = {"entailment": "yes", "neutral": "maybe", "contradiction": "no"}
    form = PairFormat(answer="{label}", label_words=words)
    assert form.reply("neutral", None) == "maybe"
    assert form.read(" Maybe.", LABELS) == ("neutral", None)
    assert form.read("neutral", LABELS) == (None, None)
    assert PairFormat().read(json.dumps({"label": "neutral"}), LABELS) == (None, None)
