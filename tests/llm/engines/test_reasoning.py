"""Thinking that servers send apart from the answer: its text and its tokens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.soak import EXAMPLES

from ray_pipeline.llm.engines.reasoning import is_thinking_part, message_thinking, with_thinking


@pytest.mark.parametrize(
    "message",
    [
        {"content": "Paris.", "reasoning_content": "Easy."},
        {"content": None, "reasoning": "Easy."},
        {"content": "Paris.", "reasoning": "Easy.", "reasoning_content": "Easy."},
        {"content": "Paris.", "reasoning": None, "thinking": "Easy."},
        {"reasoning": "Easy.", "reasoning_details": [{"type": "reasoning.text", "text": "Easy."}]},
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "Easy."}]},
        {
            "reasoning_details": [
                {"type": "reasoning.encrypted", "data": "gAAAA"},
                {"type": "reasoning.text", "text": "Easy."},
            ]
        },
        {"thinking_blocks": [{"type": "thinking", "thinking": "Easy.", "signature": "x"}]},
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "Easy."}]},
                {"type": "text", "text": "Paris."},
            ]
        },
        {"content": [{"type": "thinking", "thinking": "Easy."}, "Paris."]},
        {"content": [{"type": "reasoning", "text": "Easy."}]},
    ],
)
def test_thinking_is_found_where_servers_put_it(message: dict[str, Any]) -> None:
    assert message_thinking(message) == "Easy."


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"content": "Paris.", "reasoning_content": ""},
        {"content": [{"type": "text", "text": "Paris."}]},
        {"content": "Paris.", "reasoning": {"effort": "low"}},
    ],
)
def test_a_message_without_thinking_has_none(message: dict[str, Any]) -> None:
    assert message_thinking(message) is None


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        # OpenAI, DeepSeek: included
        ({"total_tokens": 60, "completion_tokens_details": {"reasoning_tokens": 30}}, (50, 30)),
        ({"completion_tokens_details": {"reasoning_tokens": 30}}, (50, 30)),
        # xAI: left out
        ({"total_tokens": 90, "completion_tokens_details": {"reasoning_tokens": 30}}, (80, 30)),
        ({"completion_tokens_details": {"reasoning_tokens": 70}}, (120, 70)),
        # Google: left out, and only the total says so
        ({"total_tokens": 90}, (80, 30)),
        ({"total_tokens": 60}, (50, 0)),
        ({"total_tokens": 60, "reasoning_tokens": 20}, (50, 20)),
        ({}, (50, 0)),
        ({"total_tokens": -684, "completion_tokens_details": None}, (50, 0)),
        ({"total_tokens": 10**30, "completion_tokens_details": {"reasoning_tokens": -1}}, (50, 0)),
        ({"completion_tokens_details": {"reasoning_tokens": True}}, (50, 0)),
    ],
)
def test_thinking_is_counted_once(usage: dict[str, Any], tokens: tuple[int, int]) -> None:
    assert with_thinking(usage, 10, 50) == tokens


_FIELD = st.sampled_from(
    ["reasoning", "reasoning_content", "reasoning_details", "content", "thinking", "type", "text"]
    + ["completion_tokens_details", "reasoning_tokens", "total_tokens", "summary"]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("thinking"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_FIELD, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.dictionaries(_FIELD, _JSON))
def test_no_json_in_a_reply_raises(message: dict[str, Any]) -> None:
    thinking = message_thinking(message)
    assert thinking is None or thinking
    for value in message.values():
        is_thinking_part(value)
    completion, reasoning = with_thinking(message, 10, 50)
    assert completion >= 50
    assert 0 <= reasoning <= completion


def test_deep_nesting_ends() -> None:
    value: Any = "Easy."
    for _ in range(5000):
        value = [value]
    assert message_thinking({"reasoning": value}) is None
