"""Predictors of a pair's label that reason about nothing: what a figure has to beat.

- the label that is most frequent in training;
- a bag of words of the hypothesis alone, which finds what annotators leave behind
  (Gururangan et al. 2018, "Annotation Artifacts in Natural Language Inference Data");
- the words that two sentences share, and their negations.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_pipeline.evaluate.classification import majority

MAJORITY, HYPOTHESIS_ONLY, OVERLAP = "majority", "hypothesis-only", "overlap-and-negation"
CONTROLS = (MAJORITY, HYPOTHESIS_ONLY, OVERLAP)

_WORD = re.compile(r"\w+(?:['’]\w+)?")
_NEGATION = frozenset(
    ["no", "not", "nobody", "nothing", "none", "never", "neither", "nor", "without", "cannot"]
)


@dataclass(frozen=True)
class Pairs:
    """Pairs with their labels."""

    premises: Sequence[str]
    hypotheses: Sequence[str]
    labels: Sequence[str]


def predictions(train: Pairs, test: Pairs, seed: int = 0) -> dict[str, list[str]]:
    """The labels that each of `CONTROLS` predicts for the test pairs, learnt from the others.

    A training set with one label predicts that one.
    """
    common = majority(Counter(train.labels))
    found = {MAJORITY: [common] * len(test.labels)}
    if len(set(train.labels)) < 2:
        return {name: list(found[MAJORITY]) for name in CONTROLS}
    for name, features in ((HYPOTHESIS_ONLY, _hypothesis), (OVERLAP, _overlap)):
        found[name] = _fitted(features, train, test, seed)
    return found


def _fitted(
    features: Callable[[Pairs, Pairs], tuple[Any, Any]], train: Pairs, test: Pairs, seed: int
) -> list[str]:
    """Logistic regression on some features, with scikit-learn's default regularisation."""
    from sklearn.linear_model import LogisticRegression

    ours, theirs = features(train, test)
    model = LogisticRegression(max_iter=2_000, random_state=seed)
    return [str(label) for label in model.fit(ours, list(train.labels)).predict(theirs)]


def _hypothesis(train: Pairs, test: Pairs) -> tuple[Any, Any]:
    """TF-IDF of words and word pairs of the hypotheses."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    return words.fit_transform(train.hypotheses), words.transform(test.hypotheses)


def _overlap(train: Pairs, test: Pairs) -> tuple[Any, Any]:
    """Shares of common words and word pairs, lengths, and negations; standardised."""
    from sklearn.preprocessing import StandardScaler

    scale = StandardScaler()
    ours = scale.fit_transform(np.array([_pair_features(*each) for each in _texts(train)]))
    return ours, scale.transform(np.array([_pair_features(*each) for each in _texts(test)]))


def _texts(pairs: Pairs) -> list[tuple[str, str]]:
    return list(zip(pairs.premises, pairs.hypotheses, strict=True))


def _pair_features(premise: str, hypothesis: str) -> npt.NDArray[np.float64]:
    one, other = (_WORD.findall(text.casefold()) for text in (premise, hypothesis))
    negated = [any(w in _NEGATION or w.endswith("n't") for w in each) for each in (one, other)]
    pairs = [set(pairwise(each)) for each in (one, other)]
    return np.array(
        [
            _share(set(one), set(other)),
            _share(set(other), set(one)),
            _share(*pairs),
            _share(*pairs[::-1]),
            len(one),
            len(other),
            len(other) - len(one),
            negated[0],
            negated[1],
            negated[0] != negated[1],
            set(one) == set(other),
        ],
        float,
    )


def _share(some: set[Any], of: set[Any]) -> float:
    return len(some & of) / len(some) if some else 0.0
