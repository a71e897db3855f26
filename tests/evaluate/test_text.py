"""Metrics of texts: known values, ends of the scale, what is refused."""

from __future__ import annotations

import math

import pytest

from ray_pipeline.evaluate.text import (
    COST,
    QUALITY,
    corpus_bleu,
    exact_match,
    perplexity,
    rouge_l,
    scores,
    sentence_bleu,
    summary,
)

SAME = ["the cat sat on the mat today", "Paris is the capital of France"]


def test_the_same_text_is_perfect_and_another_is_nothing() -> None:
    assert corpus_bleu(SAME, SAME).score == pytest.approx(100)
    assert sentence_bleu(SAME, SAME) == pytest.approx([1, 1])
    assert rouge_l(SAME, SAME) == pytest.approx([1, 1])
    assert exact_match(SAME, SAME) == [1, 1]
    others = ["x y z", ""]
    assert corpus_bleu(others, SAME).score < 1
    assert rouge_l(others, SAME) == [0, 0] and exact_match(others, SAME) == [0, 0]
    assert sentence_bleu(others, SAME)[1] == 0 and sentence_bleu(others, SAME)[0] < 0.1


def test_sentence_bleu_by_hand() -> None:
    """Precisions 3/4, 1/3, 0.1/2, 0.1/1; as long as the reference."""
    made = sentence_bleu(["a b x d"], ["A b c d"])
    assert made == pytest.approx([(3 / 4 * 1 / 3 * 0.1 / 2 * 0.1 / 1) ** 0.25])


def test_sentence_bleu_punishes_short_answers() -> None:
    made = sentence_bleu(["a b c d"], ["a b c d e f"])
    assert made == pytest.approx([math.exp(1 - 6 / 4)])


def test_rouge_l_by_hand() -> None:
    """Longest common subsequence 'a c' of 'a b c' and 'a c d e': P 2/3, R 2/4."""
    assert rouge_l(["a b c"], ["a c d e"]) == pytest.approx([2 * (2 / 3) * 0.5 / (2 / 3 + 0.5)])


def test_exact_match_forgives_what_squad_forgives() -> None:
    assert exact_match(["The  Eiffel tower.", "42"], ["eiffel Tower", "43"]) == [1, 0]


def test_perplexity() -> None:
    assert perplexity(math.log(8) * 5, 5) == pytest.approx(8)
    assert perplexity(1e9, 1) == math.inf
    with pytest.raises(ValueError, match="at least one"):
        perplexity(1.0, 0)


def test_summary_has_means_and_bleus_signature() -> None:
    made = summary(["a b c d", "x"], ["a b c d", "y"])
    assert made["exact_match"] == 0.5 and made["rouge_l"] == 0.5
    assert "tok:13a" in str(made["bleu_signature"])


def test_lists_that_do_not_pair_are_refused() -> None:
    for metric in (corpus_bleu, sentence_bleu, rouge_l, exact_match):
        with pytest.raises(ValueError, match="1 hypotheses, and 2 references"):
            metric(["a"], ["a", "b"])
        with pytest.raises(ValueError, match="no answers"):
            metric([], [])


def test_every_metric_of_answers_is_measured_and_named_once() -> None:
    answers, references = ["a cat", "two dogs", ""], ["a cat", "a dog", "none"]
    means, each = summary(answers, references), scores(answers, references)
    assert set(each) == {metric.key for metric in QUALITY if metric.of_answers is not None}
    for key, values in each.items():
        assert len(values) == 3 and means[key] == pytest.approx(sum(values) / 3)
    keys = [metric.key for metric in (*QUALITY, *COST)]
    assert len(set(keys)) == len(keys)
    assert all(metric.higher_is_better is None for metric in COST)
    assert not any(metric.higher_is_better is None for metric in QUALITY)
