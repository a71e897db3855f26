"""Reads the body of a successful reply into a response, whatever JSON it holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ray_pipeline.llm.engines.bodies import as_text, read_json
from ray_pipeline.llm.engines.reasoning import (
    is_thinking_part,
    message_thinking,
    with_thinking,
)
from ray_pipeline.llm.engines.replies import Failure, error_in_answer, no_answer
from ray_pipeline.rundir.responses import Response

#: No request uses this number of tokens: a larger count in a reply is not believed.
_MAX_TOKENS = 10**7
#: Names of other dialects for the reasons that the rest of the package asks about.
_FINISH_REASONS = {
    "max_tokens": "length",
    "safety": "content_filter",
    "prohibited_content": "content_filter",
    "recitation": "content_filter",
}


def read_answer(body: bytes, charset: str | None = None) -> Response | Failure:
    """The answer in the body of a reply with a status of success. Never raises on a body.

    Args:
        body: the body as bytes.
        charset: the charset that the reply's Content-Type names, if any.

    Returns: the response, whose tokens are -1 where the server reports no usage that can be
        believed; or why there is none: the error that the body holds, or ``malformed``.
    """
    value, replaced = read_json(body, charset)
    parsed = _first_object(value)
    choice, text = _answer(parsed)
    if choice.get("error") or choice.get("finish_reason") == "error":
        # OpenRouter: the provider failed in the middle of the answer.
        return error_in_answer({**choice, "error": choice.get("error") or "the answer was cut"})
    if not text and (parsed.get("error") or _is_error(parsed)):
        return error_in_answer(parsed)
    if text is None:
        return no_answer(body, charset)
    message = choice.get("message")
    usage = _usage(parsed.get("usage"), text)
    return Response(
        text=text,
        finish_reason=_finish_reason(choice.get("finish_reason")),
        prompt_tokens=usage.prompt,
        completion_tokens=usage.completion,
        cached_prompt_tokens=usage.cached,
        replaced_characters=replaced,
        thinking=message_thinking(message) if isinstance(message, dict) else None,
        reasoning_tokens=usage.reasoning,
    )


def _first_object(value: Any) -> dict[str, Any]:
    """The reply's object; Google's endpoint wraps its errors in a list."""
    if isinstance(value, list):
        value = next((item for item in value if isinstance(item, dict)), None)
    return value if isinstance(value, dict) else {}


def _is_error(parsed: dict[str, Any]) -> bool:
    """Whether a reply without choices is an error in a form without the word."""
    return "choices" not in parsed and any(
        parsed.get(key) for key in ("detail", "message", "promptFeedback")
    )


def _answer(parsed: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """The first choice that holds an answer, and its text; the first choice where none does."""
    choices = [choice for choice in _items(parsed.get("choices")) if isinstance(choice, dict)]
    message = parsed.get("message")
    if not choices and isinstance(message, dict) and "content" in message:
        choices = [parsed]  # Ollama's own form
    for choice in choices:
        if (text := _choice_text(choice)) is not None:
            return choice, text
    return choices[0] if choices else {}, None


def _items(choices: Any) -> Iterator[Any]:
    if isinstance(choices, list):
        yield from choices
    elif isinstance(choices, dict):  # one choice without its list, or numbered ones
        yield choices
        yield from choices.values()


def _choice_text(choice: dict[str, Any]) -> str | None:
    message = choice.get("message")
    if isinstance(message, dict):
        return message_text(message)
    if isinstance(message, str):
        return message
    text = choice.get("text")  # the older completions
    return text if isinstance(text, str) else None


def message_text(message: dict[str, Any]) -> str | None:
    """The text of an answer's message; None if it holds none."""
    content = message.get("content")
    if content is None:
        # A refusal, or a model that used up its tokens while reasoning: an answer, if a poor one.
        refusal = message.get("refusal")
        return refusal if isinstance(refusal, str) else ""
    if isinstance(content, list):  # parts, as some reasoning models send
        texts = [text for part in content if (text := _part_text(part)) is not None]
        is_answer = texts or all(isinstance(part, dict) for part in content)
        return "".join(texts) if is_answer else None
    return _part_text(content, whole=True)


def _part_text(part: Any, whole: bool = False) -> str | None:
    """The text of a content part: a string, or an object with a text."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict) or is_thinking_part(part):
        return None
    text = part.get("text")
    if isinstance(text, dict):
        text = text.get("value")
    if isinstance(text, str):
        return text
    # A server in JSON mode that sends the object itself instead of its text.
    return as_text(part) if whole and "type" not in part else None


def _finish_reason(reason: Any) -> str | None:
    if not isinstance(reason, str):
        return None
    reason = reason[:100]
    if reason.lower().startswith("content_filter"):  # Google adds which one
        return "content_filter"
    return _FINISH_REASONS.get(reason.lower(), reason)


class _Usage(NamedTuple):
    """Tokens of one answer; -1: not reported, or not believable."""

    prompt: int = -1
    #: Thinking included.
    completion: int = -1
    #: Part of the prompt.
    cached: int = 0
    #: Part of the completion.
    reasoning: int = 0


def _usage(usage: Any, text: str) -> _Usage:
    """The usage in a reply. A negative count, if it were believed, would give budget back."""
    if not isinstance(usage, dict):
        return _Usage()
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    if prompt is None or completion is None or (text and prompt == completion == 0):
        return _Usage()
    completion, reasoning = with_thinking(usage, prompt, completion)
    if completion > _MAX_TOKENS:
        return _Usage()
    details = usage.get("prompt_tokens_details")
    cached = _count(details, "cached_tokens") if isinstance(details, dict) else None
    return _Usage(prompt, completion, min(prompt, cached or 0), reasoning)


def _count(usage: dict[str, Any], name: str) -> int | None:
    value = usage.get(name)
    is_count = type(value) is int and 0 <= value <= _MAX_TOKENS  # not a bool
    return value if is_count else None
