from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_pipeline.stages.compression.deletion import Prompt
from ray_pipeline.stages.compression.words import without, words_of

TEXTS = st.text(
    st.sampled_from("aAbtheTHE isnot.,?!:;\n \t`\"'“”{}[]()<>|$#-*_1234é日😀"), max_size=80
)


def count_words(text: str) -> int:
    return len(text.split())


def cut(text: str, *deleted: str) -> str:
    """The text without the words whose letters are given."""
    words = words_of(text)
    return without(text, words, [i for i, word in enumerate(words) if word.core in deleted])


def test_the_mark_that_ends_a_sentence_stays_where_its_word_goes() -> None:
    assert cut("Tell me the answer, please? Now.", "please") == "Tell me the answer? Now."
    assert cut("Is it, please, true?", "please") == "Is it, true?"
    assert cut("One really. Two", "really") == "One. Two"


def test_lines_and_their_indentation_stay() -> None:
    text = "List:\n  - the first item\n    really\n  - a second\n\nThe end"
    assert cut(text, "really", "the", "a") == "List:\n  - first item\n  - second\n\nThe end"
    assert cut("a\nb c\nd", "b") == "a\nc\nd"


def test_nothing_that_is_left_changes() -> None:
    text = "  Write THE  Code\tfor me  "
    assert cut(text, "THE") == "  Write Code\tfor me  "
    assert cut(text) == text


@settings(deadline=None)
@given(TEXTS, st.randoms(use_true_random=False))
def test_what_is_left_is_a_subsequence_of_the_words(text: str, random) -> None:  # type: ignore[no-untyped-def]
    words = words_of(text)
    deleted = [place for place in range(len(words)) if random.random() < 0.5]
    left = [word.core for word in words_of(without(text, words, deleted)) if word.core]
    expected = [word.core for place, word in enumerate(words) if place not in deleted and word.core]
    assert left == expected


@settings(deadline=None)
@given(TEXTS, st.integers(0, 30), st.integers(0, 5))
def test_a_shortened_text_keeps_protected_words_and_never_grows(
    text: str, tokens: int, draw: int
) -> None:
    prompt = Prompt(text)
    for order in (prompt.random_order(1, draw), prompt.from_the_end(), prompt.rule_order()):
        short = prompt.shortened(order, tokens, count_words)
        assert count_words(short) <= count_words(text)
        kept = [prompt.words[place].core for place in sorted(prompt.protected)]
        left = iter([word.core for word in words_of(short)])
        assert all(core in left for core in kept if core)


def test_a_text_is_shortened_to_the_limit_by_the_fewest_deletions() -> None:
    prompt = Prompt("alpha beta gamma delta epsilon zeta")
    assert prompt.shortened(prompt.from_the_end(), 3, count_words) == "alpha beta gamma"
    scores = [0.5, 0.1, 0.9, 0.2, 0.8, 0.3]
    assert prompt.shortened(prompt.least_first(scores), 3, count_words) == "alpha gamma epsilon"


def test_the_limit_is_missed_where_protected_words_need_more() -> None:
    prompt = Prompt("Do not add 15 to 20")
    assert prompt.shortened(prompt.free, 1, count_words) == "not 15 20"


def test_random_orders_depend_on_the_text_the_seed_and_the_draw_alone() -> None:
    one, other = Prompt("alpha beta gamma delta epsilon"), Prompt("alpha beta gamma delta zeta")
    assert one.random_order(7, 0) == one.random_order(7, 0)
    orders = {tuple(one.random_order(seed, draw)) for seed in (1, 2) for draw in range(5)}
    assert len(orders) > 5
    assert [one.random_order(7, d) for d in range(9)] != [
        other.random_order(7, d) for d in range(9)
    ]


def test_a_users_patterns_are_protected() -> None:
    prompt = Prompt("please keep the FOO bar", [re.compile(r"the FOO")])
    assert prompt.by_rule("articles", "filler") == "keep the FOO bar"


@pytest.mark.parametrize("text", ["", "   ", "the", "please", "😀😀", "the\n"])
def test_a_text_of_which_nothing_would_be_left_comes_back(text: str) -> None:
    assert Prompt(text).by_rule("articles", "filler", "stop_words") == text
