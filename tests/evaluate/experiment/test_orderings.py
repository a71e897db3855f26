"""A score that predicts, one that is only length, and what cannot be told."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from support.made_cells import VOCABULARY, record, records
from support.soak import EXAMPLES

from ray_pipeline.evaluate.experiment.analysis import Question, analyse
from ray_pipeline.evaluate.experiment.cells import Cell
from ray_pipeline.evaluate.experiment.orderings import (
    RowScores,
    p_value,
    partial,
    rank_correlation,
)

NAMES = ["few", "few-random", "few-random-2", *(f"ordered-by-s{n}" for n in range(6))]


def analysed(
    quality: list[float], length: list[float], loss: list[float], **change: Any
) -> dict[str, Any]:
    """The comparison of nine subsets with these means and losses."""
    made = [
        record(name, seed, of + 0.001 * seed, 100, mode="tokens")
        | {"subset": name, "cell": f"{name}.{seed}", "of": name}
        for name, of in zip(NAMES, loss, strict=True)
        for seed in (1, 2)
    ]
    for one in made:
        one |= change.get(one["subset"], {})
    scores = RowScores(
        2_186,
        {"quality": 0.74, "clarity": -0.1},
        {
            name: {"quality": q, "clarity": math.nan, "length": long}
            for name, q, long in zip(NAMES, quality, length, strict=True)
        },
    )
    cells = [Cell.from_json(one) for one in made]
    found: dict[str, Any] = analyse(cells, Question(VOCABULARY, resamples=5), scores)["orderings"]
    return found


def test_a_score_that_is_only_length_has_no_correlation_at_fixed_length() -> None:
    random = np.random.default_rng(2)
    length = random.permutation(9).astype(float)
    quality = (length + random.normal(0, 0.1, 9)).tolist()
    loss = (5 - 0.1 * length + random.normal(0, 0.12, 9)).tolist()
    found = analysed(quality, length.tolist(), loss)
    line, clarity = found["scores"]
    assert line["score"] == "quality" and line["subsets"] == 9 == len(found["subsets"])
    assert line["with_length"] == pytest.approx(1)
    assert line["with_loss"] == pytest.approx(stats.spearmanr(quality, loss).statistic)
    assert line["with_loss"] < -0.7
    assert line["with_loss_at_fixed_length"] is None  # length determines the score's ranks
    assert clarity["with_loss"] is None and clarity["subsets"] == 0  # no subset has a mean
    said = " ".join(found["sentences"])
    assert "over 2,186 rows the rank correlation of quality with the number of tokens is +0.74" in (
        said
    )
    assert "55% of the variance" in said and "with mean length held fixed it is not defined" in said


def test_a_score_that_predicts_beside_length_is_seen_at_fixed_length() -> None:
    quality = [1.0, 5, 3, 8, 2, 7, 4, 6, 9]
    length = [4.0, 1, 7, 2, 9, 3, 8, 5, 6]
    found = analysed(quality, length, [9 - q / 10 for q in quality])
    line = found["scores"][0]
    assert line["with_loss"] == pytest.approx(-1) and line["p_value"] == 0
    assert line["with_loss_at_fixed_length"] == pytest.approx(-1)
    assert "9 subsets of 100 rows, each trained with 10 updates" in " ".join(found["sentences"])


def test_what_had_another_number_of_updates_is_left_out_and_named() -> None:
    ranks = [float(n) for n in range(9)]
    found = analysed(ranks, ranks[::-1], ranks, **{"ordered-by-s2": {"steps": 52}})
    assert found["not_compared"] == {"ordered-by-s2": "52 against 10 updates"}
    assert len(found["subsets"]) == 8 and found["scores"][0]["subsets"] == 8


def test_subsets_of_orderings_are_in_no_other_comparison() -> None:
    made = records(modes=("tokens",))
    of_orderings = [
        record("x", seed, 1.0, 10_000, mode="tokens")
        | {"subset": "ordered-by-clarity", "cell": f"c{seed}"}
        for seed in (1, 2, 3)
    ]
    question = Question(VOCABULARY, resamples=5)
    without = analyse([Cell.from_json(one) for one in made], question)
    both = analyse([Cell.from_json(one) for one in made + of_orderings], question)
    assert both["modes"] == without["modes"] and "orderings" not in without


@given(st.lists(st.tuples(*[st.floats(-5, 5)] * 3), min_size=5, max_size=15))
@settings(max_examples=2 * EXAMPLES, deadline=None)
def test_the_partial_correlation_is_that_of_the_residuals_of_ranks(
    points: list[tuple[float, float, float]],
) -> None:
    columns = [np.array(column) for column in zip(*points, strict=True)]
    score, length, loss = (stats.rankdata(column) for column in columns)
    pairs = ((columns[0], columns[2]), (columns[0], columns[1]), (columns[1], columns[2]))
    of = [rank_correlation(a.tolist(), b.tolist()) for a, b in pairs]
    if any(value is None for value in of):
        return
    found = partial(*of)  # type: ignore[arg-type]
    if found is None or min(1 - of[1] ** 2, 1 - of[2] ** 2) < 1e-6:  # type: ignore[operator]
        return
    left = [values - np.polyval(np.polyfit(length, values, 1), length) for values in (score, loss)]
    assert found == pytest.approx(np.corrcoef(*left)[0, 1], abs=1e-6)


def test_p_is_scipys_and_needs_degrees_of_freedom() -> None:
    first, second = [1.0, 2, 3, 4, 5, 6], [2.0, 1, 4, 3, 6, 5]
    of_scipy = stats.spearmanr(first, second)
    assert p_value(float(of_scipy.statistic), 6) == pytest.approx(of_scipy.pvalue)
    assert p_value(0.5, 3, held_fixed=1) is None and p_value(None, 9) is None
    assert rank_correlation([1.0, 2], [1.0, 2]) is rank_correlation([1.0] * 5, first[:5]) is None
