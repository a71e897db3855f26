"""Figures of labels against scikit-learn and scipy, and controls that find what they are for."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from ray_pipeline.evaluate.classification import LabelledRows, vote_calibration
from ray_pipeline.evaluate.pair_controls import (
    HYPOTHESIS_ONLY,
    MAJORITY,
    OVERLAP,
    Pairs,
    predictions,
)

LABELS = ("a", "b", "c")


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(LABELS), st.sampled_from([*LABELS, None])),
        min_size=1,
        max_size=40,
    )
)
def test_figures_are_those_of_scikit_learn(rows: list[tuple[str, str | None]]) -> None:
    truth, said = [row[0] for row in rows], [row[1] for row in rows]
    found = LabelledRows(truth, LABELS, [str(at) for at in range(len(rows))]).figures(said)
    plain = [label or "none" for label in said]
    options = {"labels": LABELS, "zero_division": 0}
    assert found.accuracy.value == pytest.approx(accuracy_score(truth, plain))
    assert found.macro_f1.value == pytest.approx(f1_score(truth, plain, average="macro", **options))
    precision, recall, _, number = precision_recall_fscore_support(truth, plain, **options)
    for at, label in enumerate(LABELS):
        each = found.by_label[label]
        assert [each[name] for name in ("precision", "recall", "rows")] == pytest.approx(
            [precision[at], recall[at], number[at]]
        )
    assert found.unparsable == pytest.approx(said.count(None) / len(said))
    assert sum(sum(row.values()) for row in found.confusion.values()) == len(rows)


def test_rows_of_one_group_make_a_wider_interval_than_independent_ones() -> None:
    rng = random.Random(1)
    truth, said, groups = [], [], []
    for number in range(40):  # groups of ten rows that are right or wrong together
        right = rng.random() < 0.7
        truth += ["a"] * 10
        said += ["a" if right else "b"] * 10
        groups += [str(number)] * 10
    together = LabelledRows(truth, LABELS, groups).figures(said).accuracy
    apart = LabelledRows(truth, LABELS, list(map(str, range(400)))).figures(said).accuracy
    width = [(each.high or 0) - (each.low or 0) for each in (together, apart)]
    assert width[0] > 2 * width[1]
    alone = LabelledRows(["a"], LABELS, ["x"]).figures(["a"]).accuracy
    assert (alone.value, alone.low, alone.high) == (1, None, None)


def test_two_predictors_are_compared_on_the_rows_where_they_part() -> None:
    truth = ["a"] * 20
    ours, theirs = ["a"] * 15 + ["b"] * 5, ["b"] * 9 + ["a"] * 8 + [None] * 3
    found = LabelledRows(truth, LABELS, list(map(str, range(20)))).compare(ours, theirs)
    assert (found["only_ours_right"], found["only_theirs_right"]) == (9, 2)
    assert found["mcnemar_p"] == pytest.approx(0.0654296875)
    assert found["accuracy"]["value"] == pytest.approx(0.35)
    same = LabelledRows(truth, LABELS, ["x"] * 20).compare(ours, ours)
    assert (same["mcnemar_p"], same["accuracy"]["value"]) == (1.0, 0.0)


def test_a_votes_share_is_compared_with_how_often_it_is_right() -> None:
    found = vote_calibration([1.0, 1.0, 0.6, 0.6], [True, True, True, False])
    assert found["brier"] == pytest.approx((0.16 + 0.36) / 4)
    assert [each["right"] for each in found["by_share"]] == [0.5, 1.0]
    assert vote_calibration([], [])["brier"] is None


def made(rng: random.Random, number: int) -> Pairs:
    """Labels that show in the hypothesis (a word), or only in what both sentences share."""
    words = [f"w{at}" for at in range(300)]
    premises, hypotheses, labels = [], [], []
    for _ in range(number):
        label = rng.choice(LABELS)
        premise = rng.sample(words, 8)
        if label == "a":
            hypothesis = premise[:5]
        elif label == "b":
            hypothesis = rng.sample(words, 5)
        else:
            hypothesis = ["not", *premise[:5]]
        premises.append(" ".join(premise))
        hypotheses.append(" ".join(hypothesis))
        labels.append(label)
    return Pairs(premises, hypotheses, labels)


def test_controls_find_what_is_there_and_no_more() -> None:
    rng = random.Random(2)
    train, test = made(rng, 600), made(rng, 300)
    found = predictions(train, test)
    right = {
        name: np.mean([said == label for said, label in zip(each, test.labels, strict=True)])
        for name, each in found.items()
    }
    assert right[OVERLAP] > 0.95
    assert 0.5 < right[HYPOTHESIS_ONLY] < 0.85  # it sees "not", and cannot tell a from b
    assert len(set(found[MAJORITY])) == 1
    one = predictions(Pairs(["x"], ["y"], ["a"]), test)
    assert {label for each in one.values() for label in each} == {"a"}
