"""How many held-out rows have a twin among the training rows, as the run's account counts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ray_pipeline.core import text
from ray_pipeline.rundir.ledger import LedgerEntry

#: From this share of the test rows on, the run says first that it tests what it has trained.
WARN_FROM = 0.01
_TESTED = "test rows"
_IN_A_SET = "test rows with a twin in "
#: The set of all training rows; the others are a part of it.
TRAIN = "train"


@dataclass(frozen=True)
class Leak:
    """The test rows with a twin in a set of training rows."""

    #: ``train``, or the name of a subset or control.
    name: str
    rows: int
    test_rows: int

    @property
    def share(self) -> str:
        """Its share of the test rows, for people."""
        return text.share(self.rows, self.test_rows)

    @property
    def is_large(self) -> bool:
        """Whether it is a reason not to believe what is measured on the test rows."""
        return self.rows > WARN_FROM * self.test_rows


def leaks(entries: Sequence[LedgerEntry]) -> list[Leak]:
    """The leak into each set of training rows that holds a twin, and always into ``train``."""
    found = []
    for entry in entries:
        counts = entry.account.counts
        if not (tested := counts.get(_TESTED, 0)):
            continue
        names = {name.removeprefix(_IN_A_SET) for name in counts if name.startswith(_IN_A_SET)}
        for name in (TRAIN, *sorted(names - {TRAIN})):
            found.append(Leak(name, counts.get(_IN_A_SET + name, 0), tested))
    return found


def leak_warning(entries: Sequence[LedgerEntry]) -> str | None:
    """What a reader has to know before every figure on test rows; None where nothing leaked."""
    for leak in leaks(entries):
        if leak.name == TRAIN and leak.is_large:
            return (
                f"{leak.rows:,} of {leak.test_rows:,} test rows "
                f"({leak.share}) have a twin among the training rows: "
                "nearly the same text, the same question, or the same long answer. What is "
                "measured on them is in part memory. Split by groups (stage split), or remove "
                "duplicates first"
            )
    return None
