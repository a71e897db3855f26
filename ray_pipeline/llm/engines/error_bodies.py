"""Reads the error that a reply's body holds, in the forms of the servers that are in use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ray_pipeline.llm.engines.bodies import as_text, in_words, read_json, words

#: How deep an error's message may itself be JSON: gateways pass on what they got as a text.
_NESTED = 3
#: HTTP statuses of the names that providers use in place of numbers.
_STATUS_OF_NAME = {
    # Google's RPC codes
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
    # types of Anthropic, OpenAI, TGI and llama.cpp
    "invalid_request_error": 400,
    "context_length_exceeded": 400,
    "exceed_context_size_error": 400,
    "content_filter": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "insufficient_quota": 429,
    "permission_error": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "validation": 422,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "rate_limited": 429,
    "overloaded": 429,
    "overloaded_error": 529,
    "unavailable_error": 503,
}


@dataclass(frozen=True)
class ErrorFields:
    """The parts of an error body that servers have in common; missing ones are empty."""

    message: str = ""
    code: str = ""
    type: str = ""
    param: str = ""
    #: Further names that the body gives the error: statuses, reasons, inner codes.
    names: frozenset[str] = field(default=frozenset(), repr=False)
    #: Seconds after which the body asks to try again.
    retry_seconds: float | None = None
    #: Whether the body was JSON, as an API's own errors are.
    is_json: bool = False

    @property
    def all_names(self) -> frozenset[str]:
        """Every code, type, status and reason of the error."""
        return self.names | {self.code, self.type}

    def status(self) -> int | None:
        """The HTTP status that the body names, as a number or by its name."""
        for name in (self.code, *sorted(self.names)):
            if re.fullmatch(r"[45]\d\d", name):
                return int(name)
        known = [_STATUS_OF_NAME[name] for name in self.all_names if name in _STATUS_OF_NAME]
        return max(known, default=None)


def error_fields(body: bytes, charset: str | None = None) -> ErrorFields:
    """Read an error body: JSON in any of the known forms, HTML, or plain text. Never raises."""
    value, _ = read_json(body, charset)
    if value is None:
        return ErrorFields(message=words(body, charset))
    return fields_of(value)


def fields_of(value: Any, depth: int = 0) -> ErrorFields:
    """Read an error that is JSON already."""
    if isinstance(value, list) and value and not any(_is_complaint(item) for item in value):
        # Google's endpoint wraps its error in a list.
        value = next((item for item in value if isinstance(item, dict)), value)
    if not isinstance(value, dict):
        return ErrorFields(message=_in_words(value), is_json=True)
    error = value.get("error") or value
    if not isinstance(error, dict):  # Ollama and TGI: {"error": "...", "error_type": "..."}
        error = value | {"message": error}
    message = error.get("message") or error.get("detail") or error.get("msg") or ""
    if isinstance(message, dict):  # Mistral: {"message": {"detail": [...]}}
        message = message.get("detail") or message.get("message") or message
    if isinstance(message, str) and message.lstrip()[:1] in ("{", "[") and depth < _NESTED:
        nested, _ = read_json(message.encode("utf-8", "replace"))
        if isinstance(nested, dict | list):
            return fields_of(nested, depth + 1)
    metadata = error.get("metadata")
    text = _in_words(message)
    if isinstance(metadata, dict) and isinstance(upstream := metadata.get("raw"), str):
        text = f"{text}: {in_words(upstream)}"  # OpenRouter: what the provider said
    return ErrorFields(
        message=text,
        code=_text(error.get("code")),
        type=_text(error.get("type") or error.get("error_type")),
        param=_text(error.get("param")),
        names=frozenset(_names(value, error)),
        retry_seconds=_retry_seconds(error, text),
        is_json=True,
    )


def _is_complaint(item: Any) -> bool:
    return isinstance(item, dict) and "msg" in item


def _names(value: dict[str, Any], error: dict[str, Any]) -> Iterator[str]:
    """Statuses, reasons and inner codes: Google's, Azure's, OpenRouter's."""
    inner = error.get("innererror")
    feedback = value.get("promptFeedback")
    for holder, key in (
        (error, "status"),
        (value, "statusCode"),
        (inner, "code"),
        (feedback, "blockReason"),
    ):
        if isinstance(holder, dict) and isinstance(name := holder.get(key), str | int):
            yield str(name)
    for detail in _details(error):
        if isinstance(reason := detail.get("reason"), str):
            yield reason
        for violation in _objects(detail.get("violations")):
            if isinstance(quota := violation.get("quotaId"), str):
                yield quota


def _details(error: dict[str, Any]) -> list[dict[str, Any]]:
    return _objects(error.get("details"))


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


#: OpenAI: "try again in 6m0s" or "in 20s"; Google: "retry in 11.66s".
_RETRY_IN = re.compile(r"(?:try again|retry) in ((?:\d+(?:\.\d+)?(?:ms|s|m|h)){1,3})\b", re.I)


def _retry_seconds(error: dict[str, Any], message: str) -> float | None:
    """Seconds after which the error asks to try again: Google's ``retryDelay``, or in words."""
    for detail in _details(error):
        delay = detail.get("retryDelay")
        if isinstance(delay, str) and (seconds := duration(delay)) is not None:
            return seconds
    found = _RETRY_IN.search(message)
    return duration(found.group(1)) if found else None


#: Seconds that a longer pause, such as one until the year 9999, counts as: some four months.
LONGEST_PAUSE = 1e7

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def duration(value: str) -> float | None:
    """Seconds of a length of time such as ``6m0s`` or ``120ms``; None if it is none."""
    parts = _DURATION.findall(value[:50])
    seconds = sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)
    return min(seconds, LONGEST_PAUSE) if parts else None


def _in_words(message: Any) -> str:
    """A message in one line; FastAPI's list of complaints without the input, which it repeats."""
    if isinstance(message, list):
        return in_words("; ".join(_complaint(item) for item in message))
    return in_words(as_text(message))


def _complaint(item: Any) -> str:
    if not isinstance(item, dict):
        return as_text(item)
    where = item.get("loc")
    place = ".".join(as_text(part) for part in where) if isinstance(where, list) else ""
    text = as_text(item.get("msg") or item.get("message") or "")
    return f"{place}: {text}" if place else text


def _text(value: Any) -> str:
    """A code or a name as text: 502 for 502.0, nothing for what is no name."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return in_words(str(value))[:200] if isinstance(value, str | int | float) else ""
