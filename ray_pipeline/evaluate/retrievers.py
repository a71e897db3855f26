"""Retrievers that are no trained embedding model: BM25, word vectors, tags, and fusions of several.

Each gives a score to every context for every query, as float ``[queries, contexts]``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float32]
_WORD = re.compile(r"\w+")
#: The constant of reciprocal rank fusion (Cormack, Clarke and Büttcher 2009).
FUSION_K = 60


@dataclass(frozen=True)
class Bm25Parameters:
    """Parameters of BM25.

    Attributes:
        k1: how soon a repeated word stops to count more.
        b: how much longer contexts are discounted.
        stem: compare stems of words (Snowball's English stemmer).
        stop_words: leave out English stop words.
    """

    k1: float = 1.5
    b: float = 0.75
    stem: bool = True
    stop_words: bool = True


class Bm25:
    """Contexts indexed for BM25 (Lucene's variant), by bm25s.

    Args:
        contexts: the texts that are searched.
        parameters: of the scores; None: the usual ones.
    """

    def __init__(self, contexts: Sequence[str], parameters: Bm25Parameters | None = None) -> None:
        import bm25s

        chosen = parameters or Bm25Parameters()
        self._options: dict[str, Any] = {
            "stopwords": "en" if chosen.stop_words else None,
            "stemmer": _stemmer() if chosen.stem else None,
            "show_progress": False,
        }
        self._contexts = len(contexts)
        self._index = bm25s.BM25(k1=chosen.k1, b=chosen.b)
        tokens = bm25s.tokenize(list(contexts), **self._options)
        self._index.index(tokens, show_progress=False)

    def scores(self, queries: Sequence[str]) -> Scores:
        """The scores of all contexts; 0 where none of a query's words is known."""
        import bm25s

        tokens: Any = bm25s.tokenize(list(queries), return_ids=False, **self._options)
        found = np.zeros((len(queries), self._contexts), np.float32)
        for number, words in enumerate(tokens):
            known = [word for word in words if word in self._index.vocab_dict]
            if known:
                found[number] = self._index.get_scores(known)
        return found


def _stemmer() -> Any:
    import Stemmer

    return Stemmer.Stemmer("english")


class WordVectors:
    """Static embeddings: a model's input vectors of a text's tokens, averaged with IDF weights.

    They know which words are alike and nothing of their order or context.

    Args:
        model: folder or hub id of a sentence-transformers model.
        corpus: the contexts, in which the weights are counted.
    """

    def __init__(self, model: str, corpus: Sequence[str]) -> None:
        from sentence_transformers import SentenceTransformer

        from ray_pipeline.models.hub import at_commit

        name, commit = at_commit(model)
        loaded = SentenceTransformer(name, device="cpu", **commit)
        self._tokenizer: Any = loaded.tokenizer
        weights = loaded[0].auto_model.get_input_embeddings().weight
        self._table = weights.detach().float().numpy()
        seen: Counter[int] = Counter()
        for ids in self._tokens(corpus):
            seen.update(set(ids))
        self._idf = {token: np.log(len(corpus) / number) + 1 for token, number in seen.items()}
        self._rarest = np.log(max(len(corpus), 1)) + 1

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of length 1; float32 [texts, dimensions]. A text without tokens is all zeros."""
        made = np.zeros((len(texts), self._table.shape[1]), np.float32)
        for number, ids in enumerate(self._tokens(texts)):
            if ids:
                weights = [self._idf.get(token, self._rarest) for token in ids]
                made[number] = np.array(weights, np.float32) @ self._table[ids]
        lengths = np.linalg.norm(made, axis=1, keepdims=True)
        return np.divide(made, lengths, out=made, where=lengths > 0)

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        return list(self._tokenizer(list(texts), add_special_tokens=False)["input_ids"])


def tag_matches(queries: Sequence[str], tags: Sequence[Sequence[str | None]]) -> Scores:
    """How many of a context's tags stand in the query, as whole words without regard to case.

    The tags spell the labels, so this is the row to compare everything on tagged contexts with.
    """
    asked = [f" {' '.join(_WORD.findall(query.lower()))} " for query in queries]
    names = sorted({tag for own in tags for tag in own if tag})
    has = np.array(
        [
            [f" {' '.join(_WORD.findall(name.lower()))} " in query for name in names]
            for query in asked
        ],
        np.float32,
    ).reshape(len(queries), len(names))
    place = {name: number for number, name in enumerate(names)}
    of_context = np.zeros((len(names), len(tags)), np.float32)
    for number, own in enumerate(tags):
        for tag in own:
            if tag:
                of_context[place[tag], number] = 1
    return has @ of_context


def fused(rankings: Sequence[Scores], weights: Sequence[float], k: int = FUSION_K) -> Scores:
    """Reciprocal rank fusion: the sum of ``weight / (k + rank)`` over the rankings.

    Contexts with equal scores get the mean of the ranks that they share.
    """
    from scipy.stats import rankdata

    total = np.zeros(rankings[0].shape, np.float64)
    for scores, weight in zip(rankings, weights, strict=True):
        total += weight / (k + rankdata(-scores, axis=1))
    # Rounded, so that what is equal in theory is a tie, whatever the order of the sum.
    return np.round(total, 12).astype(np.float64)


def top(scores: Scores, number: int) -> npt.NDArray[np.int64]:
    """Numbers of the best contexts of each query, best first; int64 [queries, number].

    Ties go to the context that comes first in the corpus.
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    return order[:, :number].astype(np.int64)
