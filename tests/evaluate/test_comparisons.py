"""Intervals of the differences between models: paired, by question."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ray_pipeline.evaluate.comparisons import Difference, Measured, PairedTest
from ray_pipeline.evaluate.text import corpus_bleu, exact_match, rouge_l, sentence_bleu

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def sentences(number: int, seed: int) -> list[str]:
    drawn = np.random.default_rng(seed)
    return [" ".join(drawn.choice(WORDS, 6)) for _ in range(number)]


def by_metric(found: list[Difference]) -> dict[str, Difference]:
    return {one.metric: one for one in found}


def compared(
    references: list[str], ours: list[str], others: list[str], questions: list[str] | None = None
) -> dict[str, Difference]:
    number = len(references)
    names = questions or [str(i) for i in range(number)]
    test = PairedTest(references, names, [4] * number, names, seed=3)
    nats = np.random.default_rng(5).normal(8, 2, (2, number))
    models = {"a": Measured(ours, nats[0].tolist()), "b": Measured(others, nats[1].tolist())}
    return by_metric(test.differences(models, [("a", "b"), ("a", "absent")]))


def test_the_differences_are_those_of_the_metrics() -> None:
    references, ours, others = (sentences(30, seed) for seed in range(3))
    ours[::3] = references[::3]
    found = compared(references, ours, others)
    bleu = corpus_bleu(ours, references).score - corpus_bleu(others, references).score
    assert found["bleu"].value == pytest.approx(bleu)
    for name, metric in (
        ("rouge_l", rouge_l),
        ("exact_match", exact_match),
        ("sentence_bleu", sentence_bleu),
    ):
        means = [np.mean(metric(texts, references)) for texts in (ours, others)]
        assert found[name].value == pytest.approx(means[0] - means[1])
    nats = np.random.default_rng(5).normal(8, 2, (2, 30)).sum(1)
    assert found["perplexity"].value == pytest.approx(math.exp((nats[0] - nats[1]) / 120))
    for difference in found.values():
        assert difference.low is not None and difference.high is not None
        assert difference.low < difference.value < difference.high
        assert difference.questions == 30


def test_rows_of_one_question_count_once() -> None:
    """Each row three times is no new information: the interval stays as wide."""
    references, ours, others = (sentences(20, seed) for seed in range(3))
    ours[::3] = references[::3]
    once = compared(references, ours, others)["rouge_l"]
    names = [str(i) for i in range(20)] * 3
    thrice = compared(references * 3, ours * 3, others * 3, names)["rouge_l"]
    as_if_independent = compared(references * 3, ours * 3, others * 3)["rouge_l"]
    assert (thrice.value, thrice.questions) == (pytest.approx(once.value), 20)
    assert (thrice.low, thrice.high) == (pytest.approx(once.low), pytest.approx(once.high))
    assert as_if_independent.questions == 60
    assert width(as_if_independent) < 0.8 * width(once)


def width(difference: Difference) -> float:
    assert difference.low is not None and difference.high is not None
    return difference.high - difference.low


def test_pairing_removes_what_both_models_find_hard() -> None:
    """One model is always a little better, on questions whose difficulty varies much more."""
    number = 40
    hard = np.linspace(0, 40, number)
    names = [str(i) for i in range(number)]
    test = PairedTest(["x"] * number, names, [1] * number, names, seed=0)
    models = {"a": Measured(["x"] * number, hard), "b": Measured(["x"] * number, hard + 0.1)}
    found = by_metric(test.differences(models, [("a", "b")]))["perplexity"]
    assert (found.value, found.low, found.high) == (pytest.approx(math.exp(-0.1)),) * 3


def test_the_interval_holds_the_true_difference_as_often_as_it_says() -> None:
    """Coverage over 200 samples of 60 questions, whose true difference is known."""
    held = 0
    for sample in range(200):
        drawn = np.random.default_rng(sample)
        names = [str(i) for i in range(60)]
        test = PairedTest([""], [""], [1] * 60, names, seed=sample)
        nats = {"a": drawn.normal(1.2, 0.5, 60), "b": drawn.normal(1.0, 0.5, 60)}
        sums = [nats["a"], nats["b"], np.ones(60)]
        found = test._interval(
            ("perplexity", "a", "b"),
            test._of_tokens,
            sums,
            lambda totals: np.exp((totals[0] - totals[1]) / totals[2]),
        )
        assert found.low is not None and found.high is not None
        held += found.low <= math.exp(0.2) <= found.high
    assert 180 <= held <= 199


def test_one_question_has_no_interval() -> None:
    found = compared(["one two"], ["one"], ["two"])
    assert {(one.low, one.high, one.questions) for one in found.values()} == {(None, None, 1)}


def test_models_that_answer_alike_differ_by_nothing() -> None:
    references, ours = sentences(10, 0), sentences(10, 1)
    found = compared(references, ours, list(ours))
    for metric in ("bleu", "rouge_l", "sentence_bleu", "exact_match"):
        assert (found[metric].value, found[metric].low, found[metric].high) == (0, 0, 0)
