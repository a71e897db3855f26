"""Figures of predicted labels: accuracy, macro-F1, confusion, their intervals, paired tests.

An answer that cannot be read is a prediction of none of the labels: it is wrong, and it counts.
Intervals resample groups of rows, because rows that share a sentence are not independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ray_pipeline.evaluate.statistics import CONFIDENCE

#: Number of resamples of an interval.
RESAMPLES = 2_000
#: Resamples that are drawn together; bounds the memory at a million groups.
_AT_ONCE = 50

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A figure with its interval; the ends are None where there are too few groups for one."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class LabelFigures:
    """The figures of one predictor.

    Attributes:
        rows: number of rows, all of which count.
        accuracy: share of rows with the right label.
        macro_f1: mean of the labels' F1, each label alike, however rare.
        by_label: precision, recall, F1 and rows of each label. A precision without any prediction
            is 0, as in scikit-learn.
        confusion: true label → predicted label → rows; the key "" is an answer without a label.
        unparsable: share of rows whose answer has no label.
    """

    rows: int
    accuracy: Interval
    macro_f1: Interval
    by_label: dict[str, dict[str, float]]
    confusion: dict[str, dict[str, int]]
    unparsable: float

    def to_json(self) -> dict[str, Any]:
        """As plain data, for metrics."""
        return asdict(self)


class LabelledRows:
    """The rows that predictors are measured on.

    Args:
        truth: the right labels.
        labels: all labels, in order.
        groups: names of independent groups of rows, such as those that share sentences.
        seed: of the resamples.
    """

    def __init__(
        self, truth: Sequence[str], labels: Sequence[str], groups: Sequence[str], seed: int = 0
    ) -> None:
        self.labels = tuple(labels)
        self._truth = self._numbers(truth)
        kinds, self._group = np.unique(np.asarray(groups, object), return_inverse=True)
        self._groups = len(kinds)
        self._seed = seed

    def __len__(self) -> int:
        """The number of rows."""
        return len(self._truth)

    def _numbers(self, labels: Sequence[str | None]) -> Ints:
        """Places of labels; the number of labels for an answer without one."""
        places = {label: place for place, label in enumerate(self.labels)}
        return np.array([places.get(label or "", len(places)) for label in labels], np.int64)

    def figures(self, predicted: Sequence[str | None]) -> LabelFigures:
        """The figures of predicted labels; None: an answer without a label."""
        number = len(self.labels)
        counts = self._confusion(predicted)
        total = counts.sum(axis=0)
        scores = [_scores(total, place) for place in range(number)]
        resampled = self._resampled(counts)
        names = [*self.labels, ""]
        return LabelFigures(
            rows=len(self),
            accuracy=self._interval(_accuracy(total), _accuracy(resampled)),
            macro_f1=self._interval(_macro_f1(total), _macro_f1(resampled)),
            by_label={
                label: dict(zip(("precision", "recall", "f1", "rows"), scores[place], strict=True))
                for place, label in enumerate(self.labels)
            },
            confusion={
                label: {name: int(total[row, at]) for at, name in enumerate(names)}
                for row, label in enumerate(self.labels)
            },
            unparsable=float(total[:, number].sum() / max(1, len(self))),
        )

    def compare(self, ours: Sequence[str | None], theirs: Sequence[str | None]) -> dict[str, Any]:
        """How two predictors differ: rows that one has right alone, McNemar's p, differences.

        McNemar's test (1947), exact: the rows that only one of them has right are a fair coin if
        both are equally good. It takes rows for independent; the intervals resample groups.
        """
        from scipy.stats import binomtest

        right = [self._numbers(each) == self._truth for each in (ours, theirs)]
        alone = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
        discordant = sum(alone)
        counts = [self._confusion(each) for each in (ours, theirs)]
        resampled = [self._resampled(each) for each in counts]
        found: dict[str, Any] = {
            "only_ours_right": alone[0],
            "only_theirs_right": alone[1],
            "mcnemar_p": float(binomtest(alone[0], discordant).pvalue) if discordant else 1.0,
        }
        for name, statistic in (("accuracy", _accuracy), ("macro_f1", _macro_f1)):
            value = float(statistic(counts[0].sum(axis=0)) - statistic(counts[1].sum(axis=0)))
            draws = statistic(resampled[0]) - statistic(resampled[1])
            found[name] = asdict(self._interval(value, draws))
        return found

    def _confusion(self, predicted: Sequence[str | None]) -> Ints:
        """Counts of [group, true label, predicted label or none]."""
        number = len(self.labels)
        counts = np.zeros((self._groups, number, number + 1), np.int64)
        np.add.at(counts, (self._group, self._truth, self._numbers(predicted)), 1)
        return counts

    def _resampled(self, counts: Ints) -> Floats:
        """Confusion matrices of resamples, the same groups for every predictor."""
        rng = np.random.default_rng(self._seed)
        flat = counts.reshape(self._groups, -1).astype(np.float64)
        even = np.full(self._groups, 1 / self._groups)
        drawn = [
            rng.multinomial(self._groups, even, size=_AT_ONCE).astype(np.float64) @ flat
            for _ in range(0, RESAMPLES, _AT_ONCE)
        ]
        return np.concatenate(drawn).reshape(RESAMPLES, *counts.shape[1:])

    def _interval(self, value: Any, draws: Floats) -> Interval:
        if self._groups < 2:
            return Interval(float(value), None, None)
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(draws, [tail, 1 - tail])
        return Interval(float(value), float(low), float(high))


def _accuracy(confusion: npt.NDArray[Any]) -> Any:
    """Share of rows on the diagonal of confusion matrices [..., label, predicted]."""
    right = np.einsum("...ii->...", confusion[..., : confusion.shape[-2]])
    return right / np.maximum(confusion.sum(axis=(-2, -1)), 1)


def _macro_f1(confusion: npt.NDArray[Any]) -> Any:
    """Mean F1 of the labels; a label with neither rows nor predictions has F1 0."""
    square = confusion[..., : confusion.shape[-2]]
    right = np.einsum("...ii->...i", square)
    both = confusion.sum(axis=-1) + square.sum(axis=-2)
    return (2 * right / np.maximum(both, 1)).mean(axis=-1)


def _scores(confusion: npt.NDArray[Any], place: int) -> tuple[float, float, float, int]:
    right, rows = confusion[place, place], int(confusion[place].sum())
    said = confusion[:, place].sum()
    precision, recall = right / max(said, 1), right / max(rows, 1)
    f1 = 2 * right / max(said + rows, 1)
    return float(precision), float(recall), float(f1), rows


def vote_calibration(shares: Sequence[float], is_right: Sequence[bool]) -> dict[str, Any]:
    """Whether a vote's share says how often it is right: the Brier score, and each share's rate.

    Args:
        shares: of the winning label among all answers about a row.
        is_right: whether the winning label was right.
    """
    values, right = np.asarray(shares, float), np.asarray(is_right, float)
    if not len(values):
        return {"brier": None, "by_share": []}
    rounded = np.round(values, 3)
    return {
        "brier": float(((values - right) ** 2).mean()),
        "by_share": [
            {
                "share": float(share),
                "rows": int((rounded == share).sum()),
                "right": float(right[rounded == share].mean()),
            }
            for share in np.unique(rounded)
        ],
    }


def majority(labels: Mapping[str, int]) -> str:
    """The most frequent label; of several the first by name."""
    return min(labels, key=lambda label: (-labels[label], label))
