"""Stored vectors: exact search, and an index that knows what it is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_pipeline.core.errors import UserError
from ray_pipeline.models import vector_index
from ray_pipeline.models.vector_index import VectorIndex, build, identity_of, load


class Letters:
    """Embeds a text by how often it has each of some letters."""

    dimensions, token_limit, pooling = 3, 8, "Pooling mean"

    def encode(self, texts: Sequence[str]) -> Any:
        counts = np.array([[text.count(c) for c in "abc"] for text in texts], np.float32)
        with np.errstate(all="ignore"):
            return counts / np.linalg.norm(counts, axis=1, keepdims=True)

    def cut_texts(self, texts: Sequence[str]) -> int:
        return sum(len(text) > 8 for text in texts)


TEXTS = ["aab", "bbc", "cca", "abc", "aab", "cccccccccc"]
EMBEDDER: Any = Letters()


def test_search_is_that_of_one_matrix_product_whatever_the_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = np.random.default_rng(1)
    vectors = np.round(generator.normal(size=(50, 3)), 1).astype(np.float32)  # with ties
    vectors[10:20] = vectors[:10]
    queries = generator.normal(size=(4, 3)).astype(np.float32)
    identity = identity_of(EMBEDDER, "w", TEXTS, "", "")
    whole = queries @ vectors.T
    expected = np.argsort(-whole, axis=1, kind="stable")[:, :7]
    monkeypatch.setattr(vector_index, "_VECTORS_AT_ONCE", 50)
    scores, _ = VectorIndex(identity, vectors, None).search(queries, 7)
    np.testing.assert_allclose(scores, np.take_along_axis(whole, expected, axis=1), rtol=1e-5)
    monkeypatch.setattr(vector_index, "_VECTORS_AT_ONCE", 8)
    in_blocks, _ = VectorIndex(identity, vectors, None).search(queries, 7)
    np.testing.assert_allclose(in_blocks, scores, rtol=1e-5)


def test_an_index_is_stored_and_opened_again(tmp_path: Path) -> None:
    identity = identity_of(EMBEDDER, "w", TEXTS, "", "")
    made = build(EMBEDDER, identity, TEXTS, tmp_path / "index")
    again = load(tmp_path / "index", identity)
    scores, places = again.search(EMBEDDER.encode(["c"]), 2)
    assert places.tolist() == [[5, 2]] and again.text(5) == "cccccccccc"
    assert scores[0, 0] == pytest.approx(1)
    assert isinstance(again.vectors, np.memmap) and made.cut == again.cut == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"weights": "other"}, "made by another model .weights w, this one's are other"),
        ({"dimensions": 7}, "its vectors have 3 dimensions, the model's have 7"),
        ({"pooling": "Pooling cls"}, "another pooling"),
        ({"query_prefix": "query: "}, "query prefix '', now 'query: '"),
        ({"max_tokens": 512}, "at most 8 tokens, now 512"),
        ({"corpus": "x"}, "other texts than the corpus has now"),
        ({"texts": 9}, "is of 6 texts, the corpus has 9"),
    ],
)
def test_an_index_of_something_else_is_refused_with_what_differs(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    identity = identity_of(EMBEDDER, "w", TEXTS, "", "")
    build(EMBEDDER, identity, TEXTS, tmp_path / "index")
    with pytest.raises(UserError, match=message) as refused:
        load(tmp_path / "index", replace(identity, **changed))
    assert "--index" in str(refused.value)


def test_other_texts_give_another_identity_and_no_folder_is_no_index(tmp_path: Path) -> None:
    one, other = (identity_of(EMBEDDER, "w", texts, "", "") for texts in (["ab", "c"], ["a", "bc"]))
    assert one.corpus != other.corpus
    with pytest.raises(UserError, match="not an index"):
        load(tmp_path, one)
    with pytest.raises(UserError, match="text 2 has no finite vector"):
        build(EMBEDDER, one, ["ab", "xyz"], None)
