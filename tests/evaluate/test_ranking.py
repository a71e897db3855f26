"""Metrics of rankings: worked by hand, as the field's library has them, and with ties."""

from __future__ import annotations

import math

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, P, R, nDCG

from ray_pipeline.evaluate.ranking import (
    METRICS,
    Judged,
    mean_reciprocal_rank_of_all,
    metrics,
    ranks,
)


def test_a_ranking_worked_by_hand() -> None:
    # Ranked: b (0.5), d (1), a, e (1), c. Linear gains, discount log2(rank + 1).
    scores = np.array([0.7, 0.9, 0.1, 0.8, 0.6])
    judged = Judged.of({1: 0.5, 3: 1.0, 4: 1.0})
    found = metrics(scores, judged)
    assert found["mrr@10"] == 1 / 2
    assert found["precision@1"] == 0
    assert math.isnan(found["precision@5"])
    assert found["recall@10"] == 1
    assert found["map"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    gain = 0.5 + 1 / math.log2(3) + 1 / math.log2(5)
    ideal = 1 + 1 / math.log2(3) + 0.5 / math.log2(4)
    assert found["ndcg@5"] == pytest.approx(gain / ideal)


def test_of_contexts_with_one_score_the_less_relevant_come_first() -> None:
    judged = Judged.of({0: 1.0, 1: 0.5, 2: 1.0})
    assert sorted(ranks(np.array([3.0, 3.0, 1.0, 3.0, 3.0]), judged).tolist()) == [3, 4, 5]
    assert ranks(np.array([3.0, 3.0, 1.0, 3.0, 3.0]), judged)[0] == 4


@pytest.mark.parametrize("score", [0.0, 1.0, math.nan, -math.inf])
def test_a_constant_scorer_gets_the_worst_value(score: float) -> None:
    found = metrics(np.full(100, score), Judged.of({3: 1.0, 4: 0.5}))
    assert found["mrr@10"] == found["precision@1"] == found["ndcg@10"] == found["recall@50"] == 0
    assert found["map"] == pytest.approx(1 / 100)


def test_mrr_is_never_below_precision_at_1_and_the_original_pair_needs_another_mean() -> None:
    eighteen = np.arange(1, 19)
    assert mean_reciprocal_rank_of_all(eighteen) == pytest.approx(0.194, abs=5e-4)
    found = metrics(-np.arange(40.0), Judged.of({place: 1.0 for place in range(18)}))
    assert found["mrr@10"] == found["precision@1"] == 1


def test_a_query_without_a_relevant_context_is_an_error() -> None:
    with pytest.raises(ValueError, match="no relevant context"):
        metrics(np.zeros(3), Judged.of({1: 0.5}))


_GRADES = st.dictionaries(st.integers(0, 59), st.sampled_from([0.5, 1.0]), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(_GRADES, st.permutations(range(60)))
def test_without_ties_the_metrics_are_those_of_ir_measures(
    grades: dict[int, float], order: list[int]
) -> None:
    if 1.0 not in grades.values():
        grades = grades | {0: 1.0}
    scores = np.array(order, float)
    found = metrics(scores, Judged.of(grades))
    # trec_eval's grades are whole numbers; linear gains make NDCG the same whatever their unit.
    qrels = {"q": {str(context): int(2 * grade) for context, grade in grades.items()}}
    run = {"q": {str(context): float(score) for context, score in enumerate(scores)}}
    theirs = {
        "mrr@10": RR(rel=2) @ 10,
        "precision@1": P(rel=2) @ 1,
        "precision@5": P(rel=2) @ 5,
        "recall@10": R(rel=2) @ 10,
        "recall@50": R(rel=2) @ 50,
        "ndcg@5": nDCG @ 5,
        "ndcg@10": nDCG @ 10,
        "map": AP(rel=2),
    }
    expected = ir_measures.calc_aggregate(list(theirs.values()), qrels, run)
    for name in METRICS:
        if not math.isnan(found[name]):
            assert found[name] == pytest.approx(expected[theirs[name]]), name


def test_binary_metrics_are_those_of_sentence_transformers() -> None:
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    generator = np.random.default_rng(3)
    scores = generator.random((4, 30))
    relevant = {str(q): {str(c) for c in generator.permutation(30)[: 5 + q]} for q in range(4)}
    evaluator = InformationRetrievalEvaluator(
        {q: q for q in relevant},
        {str(c): str(c) for c in range(30)},
        relevant,
        mrr_at_k=[10],
        ndcg_at_k=[5, 10],
        accuracy_at_k=[1],
        precision_recall_at_k=[1, 5, 10],
        map_at_k=[30],
    )
    hits = [
        [{"corpus_id": str(c), "score": float(scores[q, c])} for c in np.argsort(-scores[q])]
        for q in range(4)
    ]
    theirs = evaluator.compute_metrics(hits)
    ours = [
        metrics(scores[q], Judged.of({int(c): 1.0 for c in relevant[str(q)]})) for q in range(4)
    ]
    mean = {name: np.mean([line[name] for line in ours]) for name in METRICS}
    assert mean["mrr@10"] == pytest.approx(theirs["mrr@k"][10])
    assert mean["precision@1"] == pytest.approx(theirs["precision@k"][1])
    assert mean["precision@5"] == pytest.approx(theirs["precision@k"][5])
    assert mean["recall@10"] == pytest.approx(theirs["recall@k"][10])
    assert mean["ndcg@5"] == pytest.approx(theirs["ndcg@k"][5])
    assert mean["map"] == pytest.approx(theirs["map@k"][30])
