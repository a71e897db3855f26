"""What a failed HTTP reply means: try again, fail the row, give up the key, or stop the run.

The body decides with the status: servers use one status for different things.
`docs/reference/servers.md` is the table of the known dialects, and
`tests/cases/dialects.yaml` holds it.
"""

from __future__ import annotations

import email.utils
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ray_pipeline.llm.engines.bodies import as_text, words
from ray_pipeline.llm.engines.error_bodies import (
    LONGEST_PAUSE,
    ErrorFields,
    duration,
    error_fields,
    fields_of,
)

#: Maximum seconds to wait before the second try; doubled for each further try.
FIRST_BACKOFF_SECONDS = 0.5

#: Characters of a server's words that are kept.
_DETAIL = 400

Verdict = Literal["retry", "row", "key", "run"]


@dataclass(frozen=True)
class Failure:
    """Why a try gave no answer, and how to react.

    ``verdict``: ``retry`` the request, fail its ``row``, give up the API ``key``, or stop the
    ``run``. ``code`` is stable and ends up in the row's reason; ``detail`` is for people.
    """

    verdict: Verdict
    code: str
    #: The status, and the server's own words: as they came, with whatever they repeat.
    detail: str
    #: The server asked for a pause of this length.
    pause_seconds: float | None = None
    #: The body of an unusable reply.
    raw: str | None = None
    #: A ``row`` is to blame only if other requests are not refused in the same way; if they are,
    #: this is to blame: the API key, or the address and the model, which are the run's.
    unless: Literal["key", "run"] | None = None
    #: What to do about it, or what it means; it follows the detail.
    advice: str = ""

    def told(self, mask: Callable[[str], str]) -> Failure:
        """This failure as logs and rows may hold it: masked, in a bounded length, with advice."""
        detail = mask(self.detail)
        detail = detail if len(detail) <= _DETAIL else f"{detail[: _DETAIL - 3]}..."
        raw = None if self.raw is None else mask(self.raw)
        return replace(self, detail=detail + self.advice, raw=raw, advice="")


def backoff(attempt: int, ceiling: float) -> float:
    """Seconds to wait after try ``attempt`` (from 1): full jitter under a doubling bound."""
    return random.uniform(0, min(ceiling, FIRST_BACKOFF_SECONDS * 2 ** min(attempt - 1, 30)))


def failure(
    status: int, headers: Mapping[str, str], body: bytes, charset: str | None = None
) -> Failure:
    """Classify a reply with a status other than success. Never raises on a body."""
    error = error_fields(body, charset)
    detail = f"HTTP {status}: {error.message}" if error.message else f"HTTP {status}"
    return _classified(status, error, detail, retry_after(headers))


def error_in_answer(parsed: dict[str, Any]) -> Failure:
    """Classify an error that came with a status of success, as its own code says."""
    error = fields_of(parsed)
    status = error.status() or 500
    detail = f"HTTP 200 with an error {error.code or status}: {error.message}".rstrip(": ")
    if isinstance(feedback := parsed.get("promptFeedback"), dict) and not error.message:
        # Google's own form: the prompt was blocked, and there is no candidate.
        return Failure("row", "content_filter", f"HTTP 200: {as_text(feedback)}")
    return _classified(status, error, detail, None)


def no_answer(body: bytes, charset: str | None = None) -> Failure:
    """A reply of success that holds neither an answer nor an error."""
    text = words(body, charset) or "it is empty"
    return Failure("retry", "malformed", f"HTTP 200: the reply holds no answer: {text}")


_CHECK = "; check base_url and model"


def _classified(status: int, error: ErrorFields, detail: str, pause: float | None) -> Failure:
    """The verdict on an error. ``pause``: seconds that the reply's headers ask to wait."""
    if pause is None:
        pause = error.retry_seconds
    # What is wrong with the key comes first: providers report it with 400, 401, 403 and 429.
    if status == 401 or _is_bad_key(status, error):
        return Failure("key", "refused_key", detail)
    if status == 402 or _is_out_of_quota(status, error, pause):
        return Failure("key", "no_quota", detail, advice="; the account has no quota left")
    if _is_content_filter(status, error):
        return Failure("row", "content_filter", detail)
    if _is_context_length(status, error):
        return Failure("row", "context_length", detail)
    if status == 429:
        return Failure("retry", "rate_limited", detail, pause)
    if status in (408, 409, 424, 425) or status >= 500:  # TGI: 424 where generating failed
        return Failure("retry", "server_error", detail, pause)
    if _is_unknown_model(status, error):
        return Failure("run", "not_found", detail, advice=_CHECK)
    if status == 403:
        return Failure("row", "refused", detail, unless="key")
    if status in (404, 405) or 300 <= status < 400:
        return Failure("row", "not_found", detail, unless="run", advice=_CHECK)
    if status == 407:
        advice = "; a proxy on the way to the server asks for a login"
        return Failure("run", "proxy", detail, advice=advice)
    return Failure("row", "bad_request", detail)


_BAD_KEY = re.compile(
    r"(api|subscription)[ _]?key (is )?(not valid|invalid|expired)|(invalid|incorrect) api[ _]?key"
    r"|api[ _]key expired|no (api key|auth credentials)",
    re.IGNORECASE,
)
_BAD_KEY_NAMES = {"invalid_api_key", "API_KEY_INVALID", "UNAUTHENTICATED", "authentication_error"}


def _is_bad_key(status: int, error: ErrorFields) -> bool:
    if status not in (400, 403):
        return False
    return bool(_BAD_KEY_NAMES & error.all_names or _BAD_KEY.search(error.message))


_OUT_OF_QUOTA = re.compile(
    r"exceeded your current quota|check your plan and billing|credit balance is too low"
    r"|insufficient (credit|balance|funds|quota)|out of credits|no credits (left|remaining)"
    r"|requires more credits|purchase credits|billing hard limit|free-models-per-day",
    re.IGNORECASE,
)
_OUT_OF_QUOTA_NAMES = {"insufficient_quota", "billing_hard_limit_reached", "insufficient_balance"}


def _is_out_of_quota(status: int, error: ErrorFields, pause: float | None) -> bool:
    """Whether waiting does not help: the account has to be paid, or a new day to begin.

    Google reports its limits by the minute in the same words, with the pause to take; and its
    limits by the day with a pause too, after which they are no better.
    """
    if status not in (400, 403, 429):
        return False
    if _OUT_OF_QUOTA_NAMES & error.all_names:
        return True
    if any("PerDay" in name for name in error.names) or re.search(r"\blimit: 0\b", error.message):
        return status == 429
    return pause is None and _OUT_OF_QUOTA.search(error.message) is not None


_FILTER_NAMES = {
    "content_filter",
    "content_policy_violation",
    "ResponsibleAIPolicyViolation",
    "moderation_blocked",
    "data_inspection_failed",
    "PROHIBITED_CONTENT",
    "SAFETY",
}
#: In the words of any refusal of a request.
_FILTERED = re.compile(
    r"content[ _-](filter|policy|management|moderation)|requires moderation|input was flagged"
    r"|flagged (for|as|by)|safety (system|policy|filter|setting)|prohibited[ _](content|use)"
    r"|responsible ?ai|usage polic(y|ies)",
    re.IGNORECASE,
)
#: An account that was flagged is no request's fault.
_ACCOUNT = re.compile(r"\b(account|organi[sz]ation|project|api key)\b", re.IGNORECASE)


def _is_content_filter(status: int, error: ErrorFields) -> bool:
    if not 400 <= status < 429:
        return status < 500 and bool(_FILTER_NAMES & error.all_names)
    if _FILTER_NAMES & error.all_names:
        return True
    if not _FILTERED.search(error.message) or not error.is_json:
        return False
    return status != 403 or not _ACCOUNT.search(error.message)


_CONTEXT_LENGTH = re.compile(
    r"context[ _](length|window|size)|maximum (input|context)|too many tokens|prompt is too long"
    r"|input is too long|max_model_len|`inputs` tokens \+ `max_new_tokens`"
    r"|exceeds? the (limit of|maximum number of) \d+ tokens|input token count",
    re.IGNORECASE,
)
_CONTEXT_LENGTH_NAMES = {"context_length_exceeded", "exceed_context_size_error"}


def _is_context_length(status: int, error: ErrorFields) -> bool:
    # llama.cpp reports it with 500 too.
    if status not in (400, 413, 422, 500):
        return False
    return bool(_CONTEXT_LENGTH_NAMES & error.all_names or _CONTEXT_LENGTH.search(error.message))


_UNKNOWN_MODEL = re.compile(
    r"is not a valid model|^invalid model\b|model .{0,200}(does not exist|is not found|not found)",
    re.IGNORECASE,
)
_UNKNOWN_MODEL_NAMES = {"model_not_found", "invalid_model", "DeploymentNotFound"}


def _is_unknown_model(status: int, error: ErrorFields) -> bool:
    if status not in (400, 404):
        return False
    return bool(_UNKNOWN_MODEL_NAMES & error.all_names or _UNKNOWN_MODEL.search(error.message))


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
            return min(max(0.0, date - (time.time() if now is None else now)), LONGEST_PAUSE)
    return _reset(headers)


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    # "inf" is a number, too; a pause of for ever is one that no patience reaches.
    return min(number, LONGEST_PAUSE) if number >= 0 else None


def _http_date(value: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _reset(headers: Mapping[str, str]) -> float | None:
    """Seconds from ``x-ratelimit-reset-*``, for the limits that are used up."""
    waits = []
    for limit in ("requests", "tokens"):
        if _number(headers.get(f"x-ratelimit-remaining-{limit}")) == 0:
            waits.append(_duration(headers.get(f"x-ratelimit-reset-{limit}")))
    return max((wait for wait in waits if wait is not None), default=None)


def _duration(value: str | None) -> float | None:
    """``6m0s``, ``120ms`` or a number of seconds."""
    if value is None:
        return None
    if (number := _number(value)) is not None:
        return number
    return duration(value)
