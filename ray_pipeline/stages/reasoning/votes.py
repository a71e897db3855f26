"""The vote of several answers about one pair (self-consistency, Wang et al. 2022)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ray_pipeline.stages.text.keys import text_hash


@dataclass(frozen=True)
class Vote:
    """What several answers say together.

    Attributes:
        label: the label with most votes; None where every answer abstained.
        share: its share of all answers, those without a label among them; 0 where there is none.
        winner: position of the first answer that gave it; None where there is none.
    """

    label: str | None
    share: float
    winner: int | None


def vote(labels: Sequence[str | None], tie: str) -> Vote:
    """The majority of some labels.

    Args:
        labels: of the answers; None: the answer could not be read, and abstains.
        tie: a text, such as the pair and the seed. Of labels with equally many votes the one with
            the smallest hash with it wins, so ties favour no label and repeat exactly.
    """
    counts = Counter(label for label in labels if label is not None)
    if not counts:
        return Vote(None, 0.0, None)
    label = min(counts, key=lambda name: (-counts[name], text_hash(["vote", tie, name])))
    return Vote(label, counts[label] / len(labels), labels.index(label))
