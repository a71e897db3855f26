"""Metrics of shortened texts: how much shorter they are, and ROUGE against another text.

Ratios are tokens after over tokens before, so lower is shorter. Two are in use and differ: that of
the sums, which is what is paid, and the mean over rows, in which a short prompt weighs as much as
a long one. All counts are of one tokenizer, without special tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

#: Width of the bins of lengths, in tokens, as in the original experiment.
BIN_TOKENS = 16
#: What `rouge` measures, as rouge-score names it.
ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


@dataclass(frozen=True)
class Lengths:
    """How much shorter a set of texts has become.

    Attributes:
        rows: number of texts.
        before: tokens of all originals.
        after: tokens of all shortened texts.
        total_ratio: ``after / before``; NaN without a token before.
        mean_ratio: mean over rows of tokens after over before, over rows with a token before.
        p90_ratio: 90th percentile of the same, linear between neighbours.
        violations: number of texts that are longer than their original.
        unchanged: number of texts that have as many tokens as their original.
        empty: number of shortened texts without a token.
    """

    rows: int
    before: int
    after: int
    total_ratio: float
    mean_ratio: float
    p90_ratio: float
    violations: int
    unchanged: int
    empty: int

    def to_json(self) -> dict[str, Any]:
        """As plain data, for metrics; NaN is None."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in asdict(self).items()
        }


def lengths(before: Sequence[int], after: Sequence[int]) -> Lengths:
    """The figures of `Lengths`.

    Args:
        before: tokens of each original.
        after: tokens of each shortened text, in the same order.

    Raises:
        ValueError: their numbers differ.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} originals, and {len(after)} shortened texts")
    old, new = np.asarray(before, np.int64), np.asarray(after, np.int64)
    ratios = new[old > 0] / old[old > 0]
    total = int(old.sum())
    return Lengths(
        rows=len(old),
        before=total,
        after=int(new.sum()),
        total_ratio=float(new.sum() / total) if total else math.nan,
        mean_ratio=float(ratios.mean()) if len(ratios) else math.nan,
        p90_ratio=float(np.percentile(ratios, 90)) if len(ratios) else math.nan,
        violations=int((new > old).sum()),
        unchanged=int((new == old).sum()),
        empty=int((new == 0).sum()),
    )


def length_bins(tokens: Sequence[int], width: int = BIN_TOKENS) -> dict[str, int]:
    """The number of texts in bins of token counts: ``1-16``, ``17-32``, ..., and ``0``.

    Bins without a text up to the longest one are in it, with 0; ``0`` is only where there are any.
    """
    counts = np.asarray(tokens, np.int64)
    found = {"0": int((counts == 0).sum())} if (counts == 0).any() else {}
    last = int(counts.max(initial=0))
    for first in range(1, last + 1, width):
        inside = (counts >= first) & (counts < first + width)
        found[f"{first}-{first + width - 1}"] = int(inside.sum())
    return found


def lengths_by_bin(
    before: Sequence[int], after: Sequence[int], width: int = BIN_TOKENS
) -> dict[str, Lengths]:
    """`lengths` of the texts in each bin of the original's tokens; bins without a text are out."""
    old, new = np.asarray(before, np.int64), np.asarray(after, np.int64)
    numbers = (old - 1) // width
    found = {}
    for number in np.unique(numbers):
        inside = numbers == number
        first = int(number) * width + 1
        name = "0" if number < 0 else f"{first}-{first + width - 1}"
        found[name] = lengths(old[inside].tolist(), new[inside].tolist())
    return found


@dataclass(frozen=True)
class Rouge:
    """Mean ROUGE F-measures over the pairs that can be measured.

    Attributes:
        scores: the mean of each of `ROUGE`; None where no pair can be measured.
        measured: number of pairs that can be.
        not_measurable: number of pairs with a text of which rouge-score's tokenizer leaves
            nothing: it knows a to z and digits alone, and would give 0 for two equal texts.
    """

    scores: Mapping[str, float | None]
    measured: int
    not_measurable: int

    def to_json(self) -> dict[str, Any]:
        """As plain data, for metrics."""
        return {**self.scores, "measured": self.measured, "not_measurable": self.not_measurable}


def rouge(texts: Sequence[str], references: Sequence[str], stemmer: bool = True) -> Rouge:
    """Mean ROUGE-1, -2, -L and -Lsum F-measures by Google's rouge-score (Lin 2004).

    Args:
        texts: to measure.
        references: one each.
        stemmer: compare words without their endings, by Porter's stemmer.

    Raises:
        ValueError: their numbers differ.
    """
    each = [
        scores for scores in rouge_scores(texts, references, stemmer=stemmer) if scores is not None
    ]
    means: dict[str, float | None] = {
        name: math.fsum(scores[name] for scores in each) / len(each) if each else None
        for name in ROUGE
    }
    return Rouge(means, len(each), len(texts) - len(each))


def rouge_scores(
    texts: Sequence[str], references: Sequence[str], stemmer: bool = True
) -> list[dict[str, float] | None]:
    """ROUGE F-measures of each pair; None for one that cannot be measured (see `Rouge`).

    A text without any character has nothing in common with its reference: its scores are 0.
    """
    if len(texts) != len(references):
        raise ValueError(f"{len(texts)} texts, and {len(references)} references")
    scorer = _scorer(stemmer)
    found: list[dict[str, float] | None] = []
    for text, reference in zip(texts, references, strict=True):
        if _emptied(reference, stemmer) or (text.strip() and _emptied(text, stemmer)):
            found.append(None)
            continue
        scores = scorer.score(reference, text)
        found.append({name: float(scores[name].fmeasure) for name in ROUGE})
    return found


@lru_cache
def _scorer(stemmer: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(ROUGE), use_stemmer=stemmer)


def _emptied(text: str, stemmer: bool) -> bool:
    return not _scorer(stemmer)._tokenizer.tokenize(text)
