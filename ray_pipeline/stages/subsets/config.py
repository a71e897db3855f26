"""Configuration of subsets of the scored rows: names, sizes and thresholds."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from ray_pipeline.core.config import AddedWith, Section
from ray_pipeline.core.file_names import name_fault, same_file, shown
from ray_pipeline.rundir.layout import control_name, is_ordering, ordering_name, subset_and_draw
from ray_pipeline.stage import StageConfig

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
#: Letters of a name: the files of an experiment's trainings have more in their names.
_NAME_LETTERS = 100
#: Membership in a subset is one bit of an integer.
_MOST_SUBSETS = 32
#: Subsets and controls that stages count as bits of one integer, beside all rows to train on.
_MOST_NAMES = 63
#: The ordering by the number of a row's tokens, which `Tokenise` writes.
LENGTH = "length"
_ORDERING = re.compile(r"-?[A-Za-z0-9][A-Za-z0-9._]*")
#: The measures of a subset's size.
_MEASURES = ("rows", "share", "quantile", "min_score")


class Subset(Section):
    """The size of a subset, given by one of four measures.

    A share is of the pool, rounded up to a whole row. The quantile q of the pool is the smallest of
    its scores that at least q of its rows do not exceed; for 0, the smallest score. Ties at
    the threshold are included.
    """

    rows: int | None = Field(
        None, ge=1, description="keep this many rows, best first; all rows if there are fewer"
    )
    share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="keep this fraction of the rows, best first; ties are broken by a hash "
        "of the text",
    )
    quantile: float | None = Field(
        None,
        ge=0,
        le=1,
        description="keep the rows at or above this quantile of the scores (0 to 1); ties at "
        "the threshold are included",
    )
    min_score: float | None = Field(
        None, allow_inf_nan=False, description="keep the rows with at least this score"
    )
    draws: Annotated[int | None, AddedWith(None)] = Field(
        None,
        ge=1,
        description="number of random controls of this subset; null: `draws` of the stage for the "
        "smallest subset, 1 for the others",
    )

    @model_validator(mode="after")
    def _one_measure(self) -> Subset:
        given = [name for name in _MEASURES if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"give one of rows, share, quantile, min_score; found {found}")
        return self

    @property
    def is_threshold(self) -> bool:
        """Whether a score bounds the subset; rows that a quota excludes are then not replaced."""
        return self.rows is None and self.share is None

    @property
    def measure(self) -> str:
        """Which of the four measures gives the size."""
        return next(name for name in _MEASURES if getattr(self, name) is not None)

    def of(self, pool: int) -> int:
        """Number of rows of a subset without threshold, given the rows of the pool."""
        if self.share is not None:
            return math.ceil(exact(self.share) * pool)
        assert self.rows is not None
        return min(self.rows, pool)

    def last_rank(self, pool: int) -> int:
        """The rank (0: the best) of the score at the quantile."""
        assert self.quantile is not None
        return pool - max(1, math.ceil(exact(self.quantile) * pool))


def exact(number: float) -> Fraction:
    """The exact decimal that was written: 0.29 of 100 rows are 29, not 28.99... as in floats."""
    return Fraction(repr(number))


class Quota(Section):
    """Limit on the share of a subset that comes from one source."""

    column: str = Field("source", description="column that names the source of a row")
    max_share: float = Field(
        gt=0,
        le=1,
        description="maximum fraction of a subset's rows from one source, rounded down to "
        "whole rows",
    )

    def most(self, rows: int) -> int:
        """Maximum number of rows of one source in a subset of the given number of rows."""
        return math.floor(exact(self.max_share) * rows)


class SelectSubsetsConfig(StageConfig):
    """Configuration of `SelectSubsets`."""

    subsets: dict[str, Subset] = Field(
        {
            "ultra_high_10k": Subset(rows=10_000),
            "high_100k": Subset(rows=100_000),
            "medium_1m": Subset(rows=1_000_000),
        },
        description="subsets by name; each sets exactly one of rows, share, quantile and min_score",
    )
    quota: Quota | None = Field(
        None,
        description="limit on the share of a subset's rows that come from one source; null: "
        "no limit",
    )
    controls: bool = Field(
        True,
        description="make a control for each subset: the same number of rows, chosen at random",
    )
    draws: Annotated[int, AddedWith(1)] = Field(
        1,
        ge=1,
        description="number of independent random controls of the smallest subset, which carry "
        "the chance of which rows are chosen; the other subsets have one. The smallest is the one "
        "with the smallest size, or the first one if sizes are given by different measures",
    )

    orderings: Annotated[list[str], AddedWith([])] = Field(
        [],
        description="columns of numbers by which further subsets are chosen, each with as many "
        "rows as the smallest subset, the highest values first; `-` before a name: the lowest "
        "first; `length`: the number of a row's tokens. `train-subsets` trains on them in the mode "
        "`tokens`, and the analysis says which scores go with what models learn. Such as "
        "[clarity, response_quality, diversity, complexity, length, -length]",
    )

    @field_validator("orderings")
    @classmethod
    def _ordered_well(cls, orderings: list[str]) -> list[str]:
        for ordering in orderings:
            if not _ORDERING.fullmatch(ordering):
                raise ValueError(f"{ordering!r}: give a column's name, or '-' and its name")
            if (fault := name_fault(ordering_name(ordering))) is not None:
                raise ValueError(f"{shown(ordering)} would be part of a file's name: {fault}")
        if len(set(orderings)) < len(orderings):
            raise ValueError("names something twice")
        if (same := same_file(map(ordering_name, orderings))) is not None:
            raise ValueError(f"{same[0]!r} and {same[1]!r} are one file on some systems: drop one")
        return orderings

    @field_validator("subsets")
    @classmethod
    def _named_well(cls, subsets: dict[str, Subset]) -> dict[str, Subset]:
        for name in subsets:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"{shown(name)} would be a folder: use letters, digits, '.', '_', '-'"
                )
            if (fault := name_fault(name)) is not None or len(name) > _NAME_LETTERS:
                fault = fault or f"it has {len(name)} letters, {_NAME_LETTERS} are allowed"
                raise ValueError(f"{shown(name)} would be a folder: {fault}")
            if subset_and_draw(name)[1]:
                raise ValueError(f"{name!r}: names that end in -random are those of controls")
            if is_ordering(name):
                raise ValueError(
                    f"{name!r}: names that begin with ordered-by- are those of orderings"
                )
        if (same := same_file(subsets)) is not None:
            raise ValueError(
                f"{same[0]!r} and {same[1]!r} are one folder on some systems: rename one"
            )
        if not 1 <= len(subsets) <= _MOST_SUBSETS:
            raise ValueError(f"1 to {_MOST_SUBSETS} subsets, found {len(subsets)}")
        return subsets

    def names(self) -> list[tuple[str, str, Literal["subset", "control"]]]:
        """Name, subset and kind of every subset and control, in order."""
        found: list[tuple[str, str, Literal["subset", "control"]]] = []
        found += [(name, name, "subset") for name in self.subsets]
        for draw in range(1, self.most_draws + 1):
            found += [
                (control_name(name, draw), name, "control")
                for name in self.subsets
                if draw <= self.draws_of(name)
            ]
        return found

    def trained_names(self) -> list[str]:
        """Names of all sets of rows to train on: subsets, controls and orderings."""
        return [name for name, _, _ in self.names()] + list(map(ordering_name, self.orderings))

    def draws_of(self, name: str) -> int:
        """The number of random controls of a subset."""
        if not self.controls:
            return 0
        return self.subsets[name].draws or (self.draws if name == self.smallest else 1)

    @property
    def most_draws(self) -> int:
        """The largest number of random controls that a subset has."""
        return max(map(self.draws_of, self.subsets))

    @property
    def smallest(self) -> str:
        """The smallest subset by its configured size; the first one if these cannot be compared."""
        measures = {subset.measure for subset in self.subsets.values()}
        if len(measures) > 1:
            return next(iter(self.subsets))
        (measure,) = measures
        sign = 1 if measure in ("rows", "share") else -1  # the highest threshold keeps least
        return min(self.subsets, key=lambda name: sign * getattr(self.subsets[name], measure))

    @model_validator(mode="after")
    def _few_enough(self) -> SelectSubsetsConfig:
        number = len(self.trained_names())
        if (self.most_draws > 1 or self.orderings) and number > _MOST_NAMES:
            raise ValueError(
                f"at most {_MOST_NAMES} subsets, controls and orderings, found {number}: "
                "lower draws, or name fewer"
            )
        if self.orderings and not self.controls:
            raise ValueError("orderings are compared with random rows, too: set controls to true")
        return self
