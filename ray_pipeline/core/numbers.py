"""Numbers that come from outside and may be none."""

from __future__ import annotations

import math
from typing import Any


def finite(value: Any) -> float | None:
    """The value as a float where it is a finite number, else None.

    JSON has null for a loss that diverged, and some writers NaN. A bool is not a number, and
    neither is a text that looks like one.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None
