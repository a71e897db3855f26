"""What a request may use: one estimate for the plan, the budget and the tokens a minute."""

from __future__ import annotations

from ray_pipeline.llm.config import LlmConfig, Prices
from ray_pipeline.llm.engines.tokens import RequestTokens, request_tokens
from ray_pipeline.llm.types import Request, Sampling

#: 40 characters, 42 bytes of UTF-8.
TEXT = "Café Müller: a question of 40 characters"
REQUEST = Request("ask", "m", "", ({"role": "user", "content": TEXT},), Sampling(max_tokens=32))


def test_english_text_has_four_bytes_a_token_and_none_has_less_than_one() -> None:
    assert len(TEXT) == 40
    assert request_tokens(REQUEST) == RequestTokens(42 // 4 + 24, 42 + 24, 32)


def test_a_reservation_is_the_worst_case_and_a_rate_the_usual_one() -> None:
    reserved = RequestTokens(prompt=30, most_prompt=60, completion=10).reservation(
        Prices(prompt=1, completion=2)
    )
    assert reserved.cost == (60 * 1 + 10 * 2) * 10**6  # picodollars
    assert (reserved.tokens, reserved.rate_tokens) == (70, 40)
    assert RequestTokens(30, 60, 10).reservation(None).cost == 0


def test_a_server_that_is_asked_for_more_bills_more() -> None:
    body = {"n": 3, "max_completion_tokens": 100}
    config = LlmConfig(model="m", engine="openai", extra_body=body)
    assert config.engine_type.request_tokens(config, REQUEST).completion == 300
    config = LlmConfig(model="m", engine="transformers", extra_body=body)
    assert config.engine_type.request_tokens(config, REQUEST).completion == 32
