"""Numbers from files that may hold null, NaN or text in their place."""

from __future__ import annotations

import math
from typing import Any


def finite(value: Any) -> float | None:
    """The value as a float where it is a finite number, else None.

    A loss that diverged is null in JSON, and NaN with some writers. A bool does not count as a
    number, nor does a string that looks like one.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None
