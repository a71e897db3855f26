"""A count of something, or a share of it: an integer is a count, a percentage is a share."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator

_PERCENTAGE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*", re.ASCII)


def _checked(value: Any) -> int | float | str:
    """The value if it is a count, a percentage, or a fraction below 1.

    Raises:
        ValueError: it is something else; the message says how to write what was meant.
    """
    if isinstance(value, str):
        match = _PERCENTAGE.fullmatch(value)
        if match is None:
            raise ValueError(f'expected a count (20) or a percentage ("5%"), found {value!r}')
        if Decimal(match[1]) > 100:
            raise ValueError(f"a percentage should be less than or equal to 100%, found {value!r}")
        return f"{match[1]}%"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f'expected a count (20) or a percentage ("5%"), found {value!r}')
    if not value >= 0:
        raise ValueError(f"should be greater than or equal to 0, found {value!r}")
    if isinstance(value, float) and value >= 1:
        if value > 100 or value != int(value):
            raise ValueError(f'{value!r} is neither: write a count (20) or a percentage ("5%")')
        # 1.0 looks like "all rows" where 0.5 is half of them, and like one row where 2 is two.
        raise ValueError(
            f"{value!r} could be a count or a share: write {value:.0f} for a number of rows, or "
            f'"{100 * value if value == 1 else value:g}%" for a share of them'
        )
    return value


#: An integer is a count, ``"5%"`` a share; a fraction below 1 is a share, too. A decimal number of
#: 1 or more is refused, because it could be either.
CountOrShare = Annotated[int | float | str, BeforeValidator(_checked)]


def _steps(value: Any) -> int | float:
    """As `_checked`, for steps; a share is a fraction below 1, whichever way it is written.

    Raises:
        ValueError: as `_checked`, and for all steps.
    """
    if isinstance(value, float) and value >= 1:
        if value == 1:
            raise ValueError("1.0 could be a count or a share: write 1 for one step")
        if not value.is_integer():
            raise ValueError(f'expected a count (20) or a percentage ("5%"), found {value!r}')
        return value  # as files of earlier runs hold a count
    checked = _checked(value)
    if isinstance(checked, str):
        share = float(Decimal(checked[:-1]) / 100)
        if share == 1:
            raise ValueError(f"a percentage of steps should be less than 100%, found {value!r}")
        return share
    # One step is kept apart from 1.0, which would be refused when it is read again.
    return checked if checked == 1 else float(checked)


#: A count of steps, or a share of them that is below 1: ``1000``, ``"5%"`` or ``0.05``.
StepsOrShare = Annotated[int | float, BeforeValidator(_steps)]


def count_of(limit: int | float | str, whole: int) -> int:
    """The number that a `CountOrShare` is of ``whole``, rounded down."""
    if isinstance(limit, int):
        return limit
    share = Decimal(limit[:-1]) / 100 if isinstance(limit, str) else Decimal(repr(limit))
    return int(share * whole)


def in_words(limit: int | float | str) -> str:
    """A `CountOrShare` for a message: ``20`` or ``5%``."""
    return (
        f"{(100 * Decimal(repr(limit))).normalize():f}%" if isinstance(limit, float) else str(limit)
    )
