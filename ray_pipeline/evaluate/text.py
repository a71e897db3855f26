"""Metrics of generated answers against references: BLEU, ROUGE-L, exact match, perplexity.

All but perplexity take a hypothesis for each reference, and raise ValueError where their numbers
differ or there are none. Values lie between 0 and 1; those of `corpus_bleu` between 0 and 100, the
scale of sacrebleu.

A new metric of single answers is a function here and a line in `QUALITY`: the evaluation measures
it and writes it to ``metrics.json`` and ``validation_results.csv``, the report and
``ray-pipeline status`` show it.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ray_pipeline.core.text import figure, large, latency, share, size

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class CorpusBleu:
    """BLEU of a corpus, 0 to 100, and sacrebleu's signature, which says how it was computed."""

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
    """BLEU of each answer as in the original experiment: 4-grams, uniform weights, smoothing 0.1.

    Words are split at white space and compared in lower case. An n-gram precision without a match
    counts 0.1 matches (Chen and Cherry 2014, smoothing 1), so short answers do not get 0. Its mean
    is not corpus BLEU: compare it only with means of the same metric.
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
    """1 for answers equal to the reference after SQuAD's normalisation (Rajpurkar et al. 2016)."""
    _check(hypotheses, references)
    return [
        float(normalised(h) == normalised(r)) for h, r in zip(hypotheses, references, strict=True)
    ]


def normalised(text: str) -> str:
    """A text in lower case, without punctuation, English articles and extra white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def perplexity(nats: float, tokens: int) -> float:
    """``exp(nats / tokens)``, per answer token including the end of text; infinite on overflow.

    Args:
        nats: cross-entropy summed over answer tokens (`train.held_out.answer_nats`).
        tokens: number of answer tokens. Only models with one tokenizer can be compared.

    Raises:
        ValueError: there are no tokens.
    """
    if tokens < 1:
        raise ValueError("perplexity needs at least one answer token")
    try:
        return math.exp(nats / tokens)
    except OverflowError:
        return math.inf


@dataclass(frozen=True)
class Metric:
    """A figure of an evaluated model: where it stands, and how it is shown.

    Attributes:
        key: in ``metrics.json``, for each model; the end of a column's name in
            ``validation_results.csv``.
        label: in tables and sentences.
        higher_is_better: None for a cost, which is no measure of quality.
        shown: its values as a person reads them.
        of_answers: the values of answers given hypotheses and references; the figure is their
            mean. None for a figure that is measured otherwise.
        in_status: whether ``ray-pipeline status`` shows it.
    """

    key: str
    label: str
    higher_is_better: bool | None
    shown: Callable[[float], str] = figure
    of_answers: Callable[[Sequence[str], Sequence[str]], list[float]] | None = None
    in_status: bool = False


def _four_digits(value: float) -> str:
    return f"{value:.4f}"


def _perplexity(value: float) -> str:
    """Above a million no figure says more than that the model guesses worse than at random."""
    return figure(value) if value < 1e6 else "over a million"


#: What the answers of a model are worth, in the order of tables.
QUALITY = (
    Metric("perplexity", "perplexity", False, _perplexity, in_status=True),
    Metric("bleu", "BLEU", True, lambda value: f"{value:.2f}"),
    Metric("sentence_bleu", "sentence BLEU", True, _four_digits, sentence_bleu),
    Metric("rouge_l", "ROUGE-L", True, _four_digits, rouge_l, in_status=True),
    Metric("exact_match", "exact match", True, lambda value: share(value, 1), exact_match),
)
#: What the model costs.
COST = (
    Metric("parameters", "parameters", None, large),
    Metric("bytes", "on disk", None, size),
    Metric("latency_seconds", "latency", None, latency),
    Metric("tokens_per_second", "tokens/s", None),
)


def scores(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, list[float]]:
    """The metrics of each answer, by key."""
    return {
        metric.key: metric.of_answers(hypotheses, references)
        for metric in QUALITY
        if metric.of_answers is not None
    }


def summary(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float | str]:
    """All text metrics for ``metrics.json``; per-answer metrics as means over answers."""
    corpus = corpus_bleu(hypotheses, references)
    means = {
        key: math.fsum(values) / len(references)
        for key, values in scores(hypotheses, references).items()
    }
    return {"bleu": corpus.score, "bleu_signature": corpus.signature, **means}


def _check(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses, and {len(references)} references")
    if not references:
        raise ValueError("there are no answers to measure")
