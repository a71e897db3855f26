"""Numbers, durations and cells formatted for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from ray_pipeline.core.redaction import without_known

NONE = "–"

#: Control characters never reach a terminal or a page; C1 codes start escape sequences, too.
_CONTROL = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
_CONTROL[ord("\r")] = ""
#: Nor do those that turn the direction of what follows: with them a text shows what it is not.
_CONTROL |= {code: "\ufffd" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}


def count(number: float) -> str:
    """A whole number with thousands separators."""
    return f"{number:,.0f}"


def share(part: float, whole: float) -> str:
    """A share in per cent, with one decimal where it is not whole.

    A share that would round to 0 or 100 per cent without being so is ``< 0.1 %`` or ``> 99.9 %``.
    """
    if not whole:
        return NONE
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.1f} %" if percent % 1 else f"{percent:.0f} %"


def duration(seconds: float) -> str:
    """A duration in at most two units: ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 0.05:
        return "< 0.1 s" if seconds > 0 else "0 s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, name, part, part_name in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {name}" + (f" {rest} {part_name}" if rest else "")
    return f"{whole} s"


def dollars(amount: float) -> str:
    """An amount of dollars with two decimals; below ten cents, with two significant digits."""
    if amount == 0 or amount >= 0.1:
        return f"${amount:,.2f}"
    for digits in range(3, 7):
        if amount >= 10 ** (1 - digits):
            return f"${amount:.{digits}f}"
    return "< $0.00001"


def figure(value: float | None) -> str:
    """A measured number with four significant digits, or a dash where there is none."""
    if value is None:
        return NONE
    if value and not 1e-3 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    if abs(value) >= 999.95:
        return count(value)
    return f"{value:#.4g}" if value else "0"


def large(number: float) -> str:
    """A number of parameters or tokens: ``134.5 M``."""
    return _scaled(number, ("", "k", "M", "B", "T"))


def size(number: float) -> str:
    """Bytes in decimal units: ``538 MB``."""
    return _scaled(number, ("B", "kB", "MB", "GB", "TB"))


def latency(seconds: float) -> str:
    """A short time: ``38.2 ms``, ``1.25 s``."""
    if seconds >= 100:
        return duration(seconds)
    value, unit = (seconds, "s") if seconds >= 0.9995 else (1000 * seconds, "ms")
    return f"{value:#.3g}".rstrip(".") + f" {unit}"


def plain(value: Any) -> str:
    """A cell as text: strings without control characters and known secrets, others as JSON."""
    if value is None:
        return NONE
    if not isinstance(value, str):
        value = f"{value:g}" if isinstance(value, float) else orjson.dumps(value, str).decode()
    return without_known(str(value)).translate(_CONTROL)


def harmless(message: str) -> str:
    """A message without control characters, which names of files and servers' words may hold."""
    return message.translate(_CONTROL)


def shortened(text: str, length: int) -> str:
    """The text, cut to ``length`` characters with an ellipsis where it is longer."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def one_line(value: Any, length: int) -> str:
    """A cell on one line of at most ``length`` characters."""
    return shortened(" ".join(plain(value).split()), length)


def _scaled(number: float, units: Sequence[str]) -> str:
    place = 0
    # What would round up to the next unit belongs to it.
    while abs(number) >= 999.5 and place < len(units) - 1:
        number, place = number / 1000, place + 1
    digits = 0 if place == 0 or abs(number) >= 99.95 else 1
    return f"{number:,.{digits}f} {units[place]}".rstrip()
