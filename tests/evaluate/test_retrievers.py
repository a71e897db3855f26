"""BM25, word vectors, tags and fusion."""

from __future__ import annotations

import numpy as np
import pytest

from ray_pipeline.evaluate.ranking import Judged, metrics
from ray_pipeline.evaluate.retrievers import (
    Bm25,
    Bm25Parameters,
    WordVectors,
    fused,
    tag_matches,
    top,
)
from ray_pipeline.models import packaged

CONTEXTS = ["a dragon flies", "two dragons flying home", "the ship sinks", "a ship and a dragon"]


def test_bm25_stems_if_it_is_told_to_and_gives_unknown_words_nothing() -> None:
    stemmed = Bm25(CONTEXTS, Bm25Parameters(stem=True)).scores(["dragons", "zebra"])
    plain = Bm25(CONTEXTS, Bm25Parameters(stem=False)).scores(["dragons"])
    assert (stemmed[0] > 0).tolist() == [True, True, False, True]
    assert (plain[0] > 0).tolist() == [False, True, False, False]
    assert not stemmed[1].any()
    assert metrics(stemmed[1], Judged.of({0: 1.0}))["mrr@10"] == 1 / 4  # a tie, counted against


def test_tags_match_as_whole_words() -> None:
    tags = [("War", "Sea"), ("Sea Adventure", None), ("Love", "War")]
    scores = tag_matches(["find a sea adventure", "software", "WAR and love"], tags)
    assert scores.tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 2]]


def test_fusion_is_that_of_reciprocal_ranks_and_keeps_ties() -> None:
    one, two = np.array([[3.0, 2.0, 1.0, 1.0]]), np.array([[1.0, 2.0, 3.0, 3.0]])
    found = fused([one, two], [0.5, 0.5], k=60)
    # Places that are shared count with their mean.
    assert found[0, 0] == pytest.approx(0.5 / 61 + 0.5 / 64, abs=1e-9)
    assert found[0, 2] == found[0, 3] == pytest.approx(0.5 / 63.5 + 0.5 / 61.5, abs=1e-9)
    assert top(found, 3).tolist() == [[0, 2, 3]]


@pytest.mark.skipif(not packaged.is_fetched("all-minilm-l6-v2"), reason="model not fetched")
def test_word_vectors_do_not_know_the_order_of_words() -> None:
    words = WordVectors(packaged.resolve("all-minilm-l6-v2"), CONTEXTS)
    vectors = words.encode(["a ship and a dragon", "a dragon and a ship", "", "boat"])
    assert vectors[0] @ vectors[1] == pytest.approx(1)
    assert not vectors[2].any()
    scores = vectors[3] @ words.encode(CONTEXTS).T
    assert scores[2] > scores[0]
