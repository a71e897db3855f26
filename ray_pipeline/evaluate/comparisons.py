"""Differences between two models on the same questions, with intervals by a paired bootstrap.

Questions are resampled with replacement, and both models are measured on each resample (Koehn 2004,
Statistical Significance Tests for Machine Translation Evaluation). Rows that ask the same are
resampled together, as one question: taken for several, they would make the interval too narrow.

An interval covers the choice of test questions. It says nothing about other seeds of a training:
that is what `ratio_over_seeds` measures, where models were trained several times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_pipeline.evaluate.statistics import CONFIDENCE, estimate, perplexity_of
from ray_pipeline.evaluate.text import scores

#: Number of resamples: the ends of an interval then vary by some hundredths of its width.
RESAMPLES = 2_000
#: Resamples that are computed together; bounds the memory at a million questions.
_AT_ONCE = 50

Floats = npt.NDArray[np.float64]
#: The figure of one model from sums over rows. Each sum is an array of any shape, one item for
#: each resample; the result has the same shape.
Statistic = Callable[[Sequence[Floats]], Floats]


@dataclass(frozen=True)
class Difference:
    """How a figure differs between two models.

    Attributes:
        model: name of the model.
        than: name of the model that it is compared with.
        metric: key of the metric. ``perplexity``: the ratio of both; others: the difference.
        value: ``model`` minus ``than``, or divided by it.
        low: lower end of the interval; None where there are too few questions for one.
        high: upper end.
        questions: number of independent questions.
    """

    model: str
    than: str
    metric: str
    value: float
    low: float | None
    high: float | None
    questions: int

    def to_json(self) -> dict[str, Any]:
        """As plain data, for metrics."""
        return asdict(self)


@dataclass(frozen=True)
class Measured:
    """What one model did on the test rows.

    Attributes:
        answers: its answers to the questions.
        nats: cross-entropy of each row's reference answer, summed over its tokens.
    """

    answers: Sequence[str]
    nats: Sequence[float]


def ratio_over_seeds(
    ours: Sequence[Floats], others: Sequence[Floats], tokens: Sequence[int]
) -> dict[str, Any]:
    """The ratio of two models' perplexities over several trainings of each, as plain data.

    Args:
        ours: nats of each row's answer, of every training.
        others: the same of the other model; trainings in one place have one seed.
        tokens: answer tokens of the rows.

    Returns:
        ``ratios``, one for each seed; ``perplexities``, a pair for each; and the geometric ``mean``
        of the ratios with ``low`` and ``high``, Student's t interval of its logarithm over seeds.
    """
    total = float(np.sum(tokens))
    sums = [[float(np.sum(nats)) / total for nats in side] for side in (ours, others)]
    logs = [mine - other for mine, other in zip(*sums, strict=True)]
    found = estimate(logs).mapped(perplexity_of)
    return {
        "ratios": [perplexity_of(log) for log in logs],
        "perplexities": [[perplexity_of(a), perplexity_of(b)] for a, b in zip(*sums, strict=True)],
        "mean": found.mean,
        "low": found.low,
        "high": found.high,
    }


class PairedTest:
    """Compares models on the same rows.

    Args:
        references: of the answers.
        questions: which question each answered row asks; rows with equal names are one question.
        tokens: answer tokens of each row whose perplexity was measured.
        token_questions: which question each of these rows asks.
        seed: of the resamples.
    """

    def __init__(
        self,
        references: Sequence[str],
        questions: Sequence[str],
        tokens: Sequence[int],
        token_questions: Sequence[str],
        seed: int,
    ) -> None:
        self._references = references
        self._of_answer = _Groups(questions)
        self._tokens = np.asarray(tokens, float)
        self._of_tokens = _Groups(token_questions)
        self._seed = seed

    def differences(
        self, models: Mapping[str, Measured], pairs: Sequence[tuple[str, str]]
    ) -> list[Difference]:
        """The differences of all metrics for pairs of models; pairs with a model that is not there
        are left out.
        """
        return [
            difference
            for model, than in pairs
            if model in models and than in models
            for difference in self._pair(model, models[model], than, models[than])
        ]

    def _pair(self, model: str, measured: Measured, than: str, other: Measured) -> list[Difference]:
        sides = (measured, other)
        nats = [np.asarray(side.nats, float) for side in sides]
        found = [
            self._interval(
                ("perplexity", model, than),
                self._of_tokens,
                [*nats, self._tokens],
                lambda sums: np.exp((sums[0] - sums[1]) / sums[2]),
            ),
            self._bleu(model, than, sides),
        ]
        rows = np.ones(len(self._references))
        each = [scores(side.answers, self._references) for side in sides]
        for metric, values in each[0].items():
            lead = np.subtract(values, each[1][metric])
            found.append(
                self._interval(
                    (metric, model, than),
                    self._of_answer,
                    [lead, rows],
                    lambda sums: sums[0] / sums[1],
                )
            )
        return found

    def _bleu(self, model: str, than: str, sides: Sequence[Measured]) -> Difference:
        counts = [_bleu_counts(side.answers, self._references) for side in sides]
        width = counts[0].shape[1]

        def lead(sums: Sequence[Floats]) -> Floats:
            return _bleu_of(sums[:width]) - _bleu_of(sums[width:])

        columns = [column for side in counts for column in side.T]
        return self._interval(("bleu", model, than), self._of_answer, columns, lead)

    def _interval(
        self,
        names: tuple[str, str, str],
        groups: _Groups,
        columns: Sequence[Floats],
        statistic: Statistic,
    ) -> Difference:
        from scipy.stats import bootstrap

        metric, model, than = names
        sums = [groups.sums(column) for column in columns]
        value = float(statistic([total.sum() for total in sums]))
        low = high = None
        if groups.number > 1:

            def of_resample(drawn: npt.NDArray[np.int64], axis: int) -> Floats:
                return statistic([total[drawn].sum(axis=axis) for total in sums])

            found = bootstrap(
                (np.arange(groups.number),),
                of_resample,
                n_resamples=RESAMPLES,
                batch=_AT_ONCE,
                vectorized=True,
                confidence_level=CONFIDENCE,
                method="percentile",
                rng=np.random.default_rng(self._seed),
            ).confidence_interval
            low, high = float(found.low), float(found.high)
        return Difference(model, than, metric, value, low, high, groups.number)


class _Groups:
    """Which rows are one question."""

    def __init__(self, names: Sequence[str]) -> None:
        kinds, self._of_row = np.unique(np.asarray(names, object), return_inverse=True)
        self.number = len(kinds)

    def sums(self, values: Floats) -> Floats:
        """The sum of each question's values; float64 [questions]."""
        return np.bincount(self._of_row, values, self.number).astype(float)


def _bleu_counts(hypotheses: Sequence[str], references: Sequence[str]) -> Floats:
    """What corpus BLEU is computed from, of each answer: matches and totals of the n-grams from 1
    to 4, and both lengths; float64 [answers, 10].
    """
    from sacrebleu.metrics import BLEU

    metric = BLEU(effective_order=True)  # without a warning; it does not change the counts
    found = (metric.sentence_score(h, [r]) for h, r in zip(hypotheses, references, strict=True))
    return np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in found], float)


def _bleu_of(sums: Sequence[Floats]) -> Floats:
    """Corpus BLEU from the sums of `_bleu_counts`, as `evaluate.text.corpus_bleu` computes it."""
    from sacrebleu.metrics import BLEU

    order = (len(sums) - 2) // 2
    columns = np.stack([np.asarray(column) for column in sums], axis=-1)
    flat = columns.reshape(-1, columns.shape[-1]).astype(int)
    made = [
        BLEU.compute_bleu(
            counts[:order].tolist(),
            counts[order : 2 * order].tolist(),
            int(counts[-2]),
            int(counts[-1]),
            smooth_method="exp",
        ).score
        for counts in flat
    ]
    return np.array(made).reshape(columns.shape[:-1])
