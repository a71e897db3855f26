"""What a server's reply says about the model's thinking: its text, and its tokens.

| field of the message | sent by |
| --- | --- |
| `reasoning_content` | DeepSeek, SGLang, llama.cpp, LiteLLM, older vLLM |
| `reasoning` | OpenRouter, Groq, Ollama, vLLM |
| `reasoning_details` | OpenRouter, MiniMax: a list of parts |
| `thinking_blocks`, `thinking` | LiteLLM in front of Anthropic; Ollama's own API |
| parts of `content` with the type `thinking` or `reasoning` | Mistral, Anthropic |

Thinking inside the text of an answer is split off elsewhere, for all engines alike
(`ray_pipeline.models.thinking`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FIELDS = ("reasoning_content", "reasoning", "reasoning_details", "thinking_blocks", "thinking")
_PART_TYPES = frozenset({"thinking", "reasoning", "redacted_thinking", "reasoning_content"})
#: Fields of a part that hold its text; encrypted thinking has none of them.
_TEXTS = ("thinking", "text", "summary", "reasoning", "reasoning_content", "content")
#: How deep parts are looked into.
_DEPTH = 6
#: No request uses this number of tokens: a larger count is not believed.
_MAX_TOKENS = 10**9


def message_thinking(message: Mapping[str, Any]) -> str | None:
    """The thinking that a reply's message holds apart from its text; None if it has none.

    Args:
        message: the message of a choice; its fields may hold anything.
    """
    for field in _FIELDS:
        if text := _text(message.get(field)):
            return text
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return "".join(_text(part) for part in parts if is_thinking_part(part)) or None


def is_thinking_part(part: Any) -> bool:
    """Whether a part of a message's content is thinking rather than answer."""
    kind = part.get("type") if isinstance(part, dict) else None
    return isinstance(kind, str) and kind in _PART_TYPES


def with_thinking(usage: Mapping[str, Any], prompt: int, completion: int) -> tuple[int, int]:
    """Tokens of the whole answer, thinking included, and of the thinking.

    For most servers ``completion_tokens`` include the thinking. xAI and Google leave it out, and
    bill it all the same: there ``total_tokens`` is larger than the other two together.

    Args:
        usage: the reply's usage; its fields may hold anything.
        prompt: its prompt tokens.
        completion: its completion tokens.
    """
    details = usage.get("completion_tokens_details")
    reported = _tokens(details.get("reasoning_tokens")) if isinstance(details, dict) else 0
    reported = reported or _tokens(usage.get("reasoning_tokens"))
    missing = max(0, _tokens(usage.get("total_tokens")) - prompt - completion)
    if not reported:
        return completion + missing, missing
    is_left_out = missing == reported or reported > completion
    return completion + reported * is_left_out, reported


def _tokens(value: Any) -> int:
    """A number of tokens; 0 for everything else."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 <= value <= _MAX_TOKENS else 0


def _text(value: Any, depth: int = _DEPTH) -> str:
    """The text in a value: itself, or the texts of its parts."""
    if isinstance(value, str):
        return value
    if depth == 0:
        return ""
    if isinstance(value, list):
        return "".join(_text(item, depth - 1) for item in value)
    if isinstance(value, dict):
        return next(filter(None, (_text(value.get(name), depth - 1) for name in _TEXTS)), "")
    return ""
