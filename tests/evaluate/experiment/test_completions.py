"""Measures of completions: where their scales begin and end, and what they cannot see."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_pipeline.evaluate.experiment.completions import (
    coherence,
    content_words,
    distinct,
    diversity,
    follows,
    fresh,
    known_pairs,
    length_fit,
    word_pairs,
)

KNOWN = word_pairs(["the cat sat on the mat", "a dog ran home"])
WILD = st.text(max_size=60)


def test_going_in_circles_is_not_fresh() -> None:
    assert fresh("the cat sat on the mat") == 1
    assert fresh("round and round it goes " * 10) == pytest.approx(5 / 47)
    assert fresh("a a a a a") == pytest.approx(1 / 2)
    assert fresh("too short") == 1 and fresh("") == fresh(" .!? ") == 0


def test_words_thrown_together_are_not_known() -> None:
    assert known_pairs("The cat sat", KNOWN) == 1
    assert known_pairs("sat cat the", KNOWN) == 0
    assert known_pairs("the cat ran home", KNOWN) == pytest.approx(2 / 3)
    assert known_pairs("cat", KNOWN) == 1 and known_pairs("", KNOWN) == 0


def test_coherence_wants_both() -> None:
    assert coherence("the cat sat on the mat", KNOWN) == 1
    assert coherence("mat on cat the", KNOWN) == 0
    circles = "the cat sat on " * 9
    assert coherence(circles, KNOWN) == fresh(circles) * known_pairs(circles, KNOWN) < 0.2


def test_distinct_is_that_of_all_texts_together() -> None:
    assert distinct(["a b", "a b"], 1) == 0.5
    assert distinct(["a b", "b a"], 2) == 1
    assert distinct(["", "a"], 2) == 0


def test_diversity_is_nothing_for_equals_and_one_for_strangers() -> None:
    assert diversity(["one text"] * 5) == 0
    assert diversity(["one text", "another thing"]) == 1
    assert diversity(["", ""]) == 0 and diversity(["", "a word"]) == 1
    assert diversity(["alone"]) == diversity([]) == 0
    assert 0 < diversity(["the cat sat", "the cat ran"]) < 1


def test_following_is_taking_up_the_words_that_say_something() -> None:
    instruction = "Explain what photosynthesis does for plants."
    assert content_words(instruction) == {"photosynthesi", "plant"}
    assert follows(instruction, "Photosynthesis lets a plant make sugar.") == 1
    assert follows(instruction, "Stars burn hydrogen.") == 0
    assert follows(instruction, "") == 0
    assert follows("Do it?", "Yes.") is None


def test_length_is_best_at_the_references() -> None:
    assert length_fit(50, 50) == 1
    assert length_fit(25, 50) == length_fit(100, 50) == 0.5
    assert length_fit(0, 50) == length_fit(50, 0) == 0


@given(st.lists(WILD, max_size=4), WILD)
@settings(max_examples=80, deadline=None)
def test_all_measures_stay_between_0_and_1(texts: list[str], instruction: str) -> None:
    found = [diversity(texts), distinct(texts, 1), distinct(texts, 2)]
    found += [coherence(text, KNOWN) for text in texts]
    found += [f for text in texts if (f := follows(instruction, text)) is not None]
    assert all(0 <= value <= 1 for value in found)
