"""Metrics of generated answers against references: BLEU, ROUGE-L, exact match, perplexity.

All of them but perplexity take equally many hypotheses and references, and raise ValueError where
they are not, or where there are none. Values are shares from 0 to 1, but for `corpus_bleu`, which
has sacrebleu's scale from 0 to 100.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class CorpusBleu:
    """BLEU of a corpus, 0 to 100, and sacrebleu's signature, without which it means little."""

    score: float
    signature: str


def corpus_bleu(hypotheses: Sequence[str], references: Sequence[str]) -> CorpusBleu:
    """Corpus BLEU with sacrebleu's defaults (13a tokens, exponential smoothing; Post 2018)."""
    from sacrebleu.metrics import BLEU

    _check(hypotheses, references)
    metric = BLEU()
    score = metric.corpus_score(list(hypotheses), [list(references)]).score
    return CorpusBleu(score, str(metric.get_signature()))


def sentence_bleu(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """The seed's BLEU of each answer: 4-gram precision, uniform weights, smoothing by 0.1.

    Words are split at white space and compared in lower case. A precision without a match counts
    0.1 matches (Chen and Cherry 2014, smoothing 1), so short answers are not 0. Compare its mean
    with figures of the same kind only: it is not corpus BLEU.
    """
    from nltk.translate.bleu_score import SmoothingFunction
    from nltk.translate.bleu_score import sentence_bleu as bleu

    _check(hypotheses, references)
    smooth = SmoothingFunction().method1
    return [
        float(bleu([r.lower().split()], h.lower().split(), smoothing_function=smooth))
        if h.split()
        else 0.0
        for h, r in zip(hypotheses, references, strict=True)
    ]


def rouge_l(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """ROUGE-L F-measure of each answer, by Google's rouge-score, without stemming (Lin 2004)."""
    from rouge_score.rouge_scorer import RougeScorer

    _check(hypotheses, references)
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    return [
        float(scorer.score(r, h)["rougeL"].fmeasure)
        for h, r in zip(hypotheses, references, strict=True)
    ]


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """1 where answers are the same after SQuAD's normalisation (Rajpurkar et al. 2016), else 0."""
    _check(hypotheses, references)
    return [
        float(normalised(h) == normalised(r)) for h, r in zip(hypotheses, references, strict=True)
    ]


def normalised(text: str) -> str:
    """Lower case, without punctuation, English articles and surplus white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def perplexity(nats: float, tokens: int) -> float:
    """``exp(nats / tokens)``: per answer token, end of text among them; infinite where too large.

    Args:
        nats: cross-entropy summed over answer tokens (`train.held_out.answer_nats`).
        tokens: how many. Comparable between models of one tokenizer only.

    Raises:
        ValueError: there are none.
    """
    if tokens < 1:
        raise ValueError("perplexity needs at least one answer token")
    try:
        return math.exp(nats / tokens)
    except OverflowError:
        return math.inf


def summary(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float | str]:
    """All metrics of texts, means over answers where they are of each, for ``metrics.json``."""
    corpus = corpus_bleu(hypotheses, references)
    of_each: dict[str, Callable[[Sequence[str], Sequence[str]], list[float]]] = {
        "sentence_bleu": sentence_bleu,
        "rouge_l": rouge_l,
        "exact_match": exact_match,
    }
    means = {
        name: math.fsum(m(hypotheses, references)) / len(references) for name, m in of_each.items()
    }
    return {"bleu": corpus.score, "bleu_signature": corpus.signature, **means}


def _check(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses, and {len(references)} references")
    if not references:
        raise ValueError("there are no answers to measure")
