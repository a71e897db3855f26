"""Reads the body of a successful reply into a response."""

from __future__ import annotations

from typing import Any

import orjson

from ray_pipeline.rundir.responses import Response


def read_answer(reply: bytes) -> Response | None:
    """The answer in a reply; None when there is none. Tokens are -1 where usage is missing."""
    try:
        parsed = orjson.loads(reply)
        choice = parsed["choices"][0]
        message = choice["message"]
        text = message_text(message)
    except (ValueError, LookupError, TypeError):
        return None
    if text is None:
        return None
    usage = parsed.get("usage")
    prompt, completion, cached = _usage(usage if isinstance(usage, dict) else {})
    return Response(
        text=text,
        finish_reason=choice.get("finish_reason"),
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_prompt_tokens=cached,
    )


def message_text(message: dict[str, Any]) -> str | None:
    """The text of an answer's message; None if it holds none."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):  # parts, as some reasoning models send
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    # A refusal, or a model that used up its tokens while reasoning: an answer, if a poor one.
    return str(message.get("refusal") or "") if content is None else None


def _usage(usage: dict[str, Any]) -> tuple[int, int, int]:
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(prompt, int) or not isinstance(completion, int):
        return -1, -1, 0
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return prompt, completion, min(prompt, cached) if isinstance(cached, int) else 0
