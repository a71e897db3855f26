"""Ratios, bins and ROUGE against examples computed by hand and by rouge-score itself."""

from __future__ import annotations

import math

import pytest

from ray_pipeline.evaluate import compression as metrics


def test_ratio_of_sums_mean_percentile_and_violations_of_a_hand_checked_example() -> None:
    # Ratios 1/2, 1, 5/4, 0 and 9/90; their mean is (0.5 + 1 + 1.25 + 0 + 0.1) / 5.
    found = metrics.lengths([10, 5, 4, 10, 90], [5, 5, 5, 0, 9])
    assert (found.before, found.after) == (119, 24)
    assert found.total_ratio == pytest.approx(24 / 119)
    assert found.mean_ratio == pytest.approx(2.85 / 5)
    # Sorted 0, .1, .5, 1, 1.25: place 0.9 * 4 = 3.6, so 1 + 0.6 * 0.25.
    assert found.p90_ratio == pytest.approx(1.15)
    assert (found.violations, found.unchanged, found.empty) == (1, 1, 1)


def test_ratios_of_prompts_without_tokens_are_not_made_up() -> None:
    found = metrics.lengths([0, 4], [0, 2])
    assert found.total_ratio == 0.5 and found.mean_ratio == 0.5
    none = metrics.lengths([], [])
    assert math.isnan(none.total_ratio) and none.to_json()["total_ratio"] is None


def test_lengths_fall_into_the_bins_of_the_original_experiment() -> None:
    assert metrics.length_bins([1, 16, 17, 48, 49]) == {
        "1-16": 2, "17-32": 1, "33-48": 1, "49-64": 1,
    }  # fmt: skip
    assert metrics.length_bins([0, 33]) == {"0": 1, "1-16": 0, "17-32": 0, "33-48": 1}
    binned = metrics.lengths_by_bin([16, 10, 17, 40], [8, 5, 18, 20])
    assert {name: one.total_ratio for name, one in binned.items()} == {
        "1-16": 0.5, "17-32": pytest.approx(18 / 17), "33-48": 0.5,
    }  # fmt: skip
    assert sum(one.rows for one in binned.values()) == 4


@pytest.mark.parametrize("stemmer", [True, False])
def test_rouge_equals_that_of_rouge_score(stemmer: bool) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    texts = ["List capitals of Europe", "Who wrote it?\nWhen was that?", "", "Name 3 birds"]
    references = [
        "List the capital of each country in Europe.",
        "Who was the writer?\nWhen did she write it?",
        "Say something",
        "Name 3 birds",
    ]
    scorer = RougeScorer(list(metrics.ROUGE), use_stemmer=stemmer)
    found = metrics.rouge_scores(texts, references, stemmer)
    for text, reference, scores in zip(texts, references, found, strict=True):
        expected = scorer.score(reference, text)
        assert scores == {name: expected[name].fmeasure for name in metrics.ROUGE}
    means = metrics.rouge(texts, references, stemmer)
    for name in metrics.ROUGE:
        values = [scorer.score(r, t)[name].fmeasure for t, r in zip(texts, references, strict=True)]
        assert means.scores[name] == pytest.approx(sum(values) / 4)


def test_rouge_of_a_hand_checked_example() -> None:
    # 3 of 3 and 3 of 5 words: F = 2·1·0.6/1.6; pairs of words: 1 of 2 and 1 of 4.
    (scores,) = metrics.rouge_scores(["a b d"], ["a b c d e"], stemmer=False)
    assert scores is not None
    assert scores["rouge1"] == pytest.approx(0.75)
    assert scores["rouge2"] == pytest.approx(2 * 0.5 * 0.25 / 0.75)
    assert scores["rougeL"] == scores["rougeLsum"] == pytest.approx(0.75)


def test_what_rouges_tokenizer_empties_is_not_measurable_rather_than_zero() -> None:
    russian = "Кто написал этот роман?"
    assert metrics.rouge_scores([russian], [russian]) == [None]
    found = metrics.rouge([russian, "who wrote it", "…"], [russian, "who wrote it", "who"])
    assert (found.measured, found.not_measurable) == (1, 2)
    assert found.scores["rouge1"] == 1
    assert metrics.rouge([russian], [russian]).scores["rouge1"] is None
    assert metrics.rouge([""], ["who"]).scores["rouge1"] == 0
