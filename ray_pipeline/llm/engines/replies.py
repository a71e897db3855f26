"""What a failed HTTP reply means: try again, fail the row, give up the key, or stop the run."""

from __future__ import annotations

import email.utils
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

#: Maximum seconds to wait before the second try; doubled for each further try.
FIRST_BACKOFF_SECONDS = 0.5

Verdict = Literal["retry", "row", "key", "run"]


@dataclass(frozen=True)
class Failure:
    """Why a try gave no answer, and how to react.

    ``verdict``: ``retry`` the request, fail its ``row``, give up the API ``key``, or stop the
    ``run``. ``code`` is stable and ends up in the row's reason; ``detail`` is for people.
    """

    verdict: Verdict
    code: str
    detail: str
    #: The server asked for a pause of this length.
    pause_seconds: float | None = None
    #: The body of an unusable reply.
    raw: str | None = None


def backoff(attempt: int, ceiling: float) -> float:
    """Seconds to wait after try ``attempt`` (from 1): full jitter under a doubling bound."""
    return random.uniform(0, min(ceiling, FIRST_BACKOFF_SECONDS * 2 ** min(attempt - 1, 30)))


def failure(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """Classify a reply with a status other than 200."""
    error = error_fields(body)
    detail = f"HTTP {status}: {error.message}" if error.message else f"HTTP {status}"
    if status == 402 or (status == 429 and "insufficient_quota" in (error.code, error.type)):
        return Failure("key", "no_quota", f"HTTP {status}: the account has no quota left")
    if status in (401, 403):
        # The server's own message may repeat the key.
        return Failure("key", "refused_key", f"HTTP {status}: the server refuses the key")
    if status == 429:
        return Failure("retry", "rate_limited", detail, retry_after(headers))
    if status in (408, 409) or status >= 500:
        return Failure("retry", "server_error", detail, retry_after(headers))
    if status in (404, 405) or 300 <= status < 400:
        return Failure("run", "not_found", f"{detail}; check base_url and model")
    if _is_context_length(error):
        return Failure("row", "context_length", detail)
    if "content_filter" in (error.code, error.type) or error.code == "content_policy_violation":
        return Failure("row", "content_filter", detail)
    return Failure("row", "bad_request", detail)


@dataclass(frozen=True)
class ErrorFields:
    """The parts of an error body that servers have in common; missing ones are empty."""

    message: str = ""
    code: str = ""
    type: str = ""
    param: str = ""


def error_fields(body: bytes) -> ErrorFields:
    """Read an error body: OpenAI's form, FastAPI's ``detail``, or plain text."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ErrorFields(message=_short(body.decode("utf-8", "replace")))
    if not isinstance(parsed, dict):
        return ErrorFields(message=_short(str(parsed)))
    error = parsed.get("error", parsed)
    if not isinstance(error, dict):
        return ErrorFields(message=_short(str(error)))
    message = error.get("message") or error.get("detail") or ""
    return ErrorFields(
        message=_short(_in_words(message)),
        code=_text(error.get("code")),
        type=_text(error.get("type")),
        param=_text(error.get("param")),
    )


def _in_words(message: Any) -> str:
    """FastAPI's list of complaints: where and what, not the input, which it repeats in full."""
    if not isinstance(message, list):
        return message if isinstance(message, str) else orjson.dumps(message).decode()
    complaints = []
    for item in message:
        if isinstance(item, dict):
            where = ".".join(str(part) for part in item.get("loc", ()))
            complaints.append(f"{where}: {item.get('msg', '')}")
    return "; ".join(complaints)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:297] + "..."


_CONTEXT_LENGTH = re.compile(
    r"context[ _](length|window)|maximum (input|context)|too many tokens|prompt is too long"
    r"|input is too long|max_model_len",
    re.IGNORECASE,
)


def _is_context_length(error: ErrorFields) -> bool:
    return error.code == "context_length_exceeded" or bool(_CONTEXT_LENGTH.search(error.message))


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that a reply asks to wait, from any of the usual headers; None if it has none.

    Args:
        headers: headers of the reply, in a case-insensitive mapping.
        now: current time in seconds since the epoch, for HTTP dates.
    """
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    if value is not None:
        if (seconds := _number(value)) is not None:
            return seconds
        if (date := _http_date(value)) is not None:
            return max(0.0, date - (time.time() if now is None else now))
    return _reset(headers)


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if 0 <= number < 1e7 else None


def _http_date(value: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError):
        return None


def _reset(headers: Mapping[str, str]) -> float | None:
    """Seconds from ``x-ratelimit-reset-*``, for the limits that are used up."""
    waits = []
    for limit in ("requests", "tokens"):
        if _number(headers.get(f"x-ratelimit-remaining-{limit}")) == 0:
            waits.append(_duration(headers.get(f"x-ratelimit-reset-{limit}")))
    return max((wait for wait in waits if wait is not None), default=None)


_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _duration(value: str | None) -> float | None:
    """``6m0s``, ``120ms`` or a number of seconds."""
    if value is None:
        return None
    if (number := _number(value)) is not None:
        return number
    parts = _DURATION.findall(value)
    return sum(float(n) * _UNIT_SECONDS[unit] for n, unit in parts) if parts else None
