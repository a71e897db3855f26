"""Reading a reply's body: whatever it holds is a response or a failure."""

from __future__ import annotations

import gzip
import json
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from support import soak
from support.odd_replies import CHARSETS, HEADERS, STATUSES, bodies
from support.scripted_server import cases, completion

from ray_pipeline.llm.engines.answers import read_answer
from ray_pipeline.llm.engines.replies import Failure, failure
from ray_pipeline.llm.engines.requests import Dialect
from ray_pipeline.rundir.responses import Response

PARIS = "Paris is the capital of France."
#: Bodies are read in a millisecond: more of them than of other inputs; see `support.soak`.
EXAMPLES = max(200, soak.EXAMPLES)


def check(meaning: Response | Failure) -> None:
    """What the rest of the package relies on."""
    if isinstance(meaning, Failure):
        assert meaning.verdict in ("retry", "row", "key", "run")
        assert meaning.code.isidentifier()
        assert meaning.pause_seconds is None or 0 <= meaning.pause_seconds < 1e12
        told = meaning.told(str)
        assert len(told.detail) < 600
        pa.array([told.detail])
        return
    orjson.dumps(meaning)  # the journal stores it
    pa.array([meaning.text])
    counts = (meaning.prompt_tokens, meaning.completion_tokens)
    assert counts == (-1, -1) or all(0 <= count <= 10**7 for count in counts)
    assert 0 <= meaning.cached_prompt_tokens <= max(0, meaning.prompt_tokens)
    assert meaning.finish_reason is None or isinstance(meaning.finish_reason, str)


_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=_SLOW)
@given(bodies(), STATUSES, HEADERS, CHARSETS)
def test_any_reply_is_a_response_or_a_failure(
    body: bytes, status: int, headers: dict[str, str], charset: str | None
) -> None:
    if status < 300:
        check(read_answer(body, charset))
    else:
        meaning = failure(status, headers, body, charset)
        check(meaning)
        Dialect().after_refusal(status, body)


def read(value: Any, charset: str | None = None) -> Response:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    meaning = read_answer(body, charset)
    assert isinstance(meaning, Response), meaning
    return meaning


def failed(value: Any) -> Failure:
    meaning = read_answer(value if isinstance(value, bytes) else json.dumps(value).encode())
    assert isinstance(meaning, Failure), meaning
    return meaning


@pytest.mark.parametrize("name", ["bom", "content-strings", "negative-usage"])
def test_an_odd_but_whole_answer_is_read(name: str) -> None:
    reply, must = cases()[name]
    assert PARIS in must or "estimated" in must
    assert read(reply.body).text == PARIS


def test_half_a_character_is_replaced_and_counted() -> None:
    response = read(cases()["surrogate"][0].body)
    assert response.text == "Paris \ufffd is the capital of France."
    assert response.replaced_characters == 1
    whole = read(json.dumps(completion("\U0001f600")).encode())
    assert (whole.text, whole.replaced_characters) == ("\U0001f600", 0)


@pytest.mark.parametrize(
    ("body", "charset"),
    [
        (json.dumps(completion("é"), ensure_ascii=False).encode("latin-1"), "iso-8859-1"),
        (json.dumps(completion("é"), ensure_ascii=False).encode("utf-16"), None),
        (json.dumps(completion("é"), ensure_ascii=False).encode("utf-8"), "iso-8859-1"),
        (gzip.compress(json.dumps(completion("é")).encode()), None),
        (json.dumps({**completion("é"), "score": float("nan")}).encode(), None),
        (json.dumps(completion("é")).replace("\\u00e9", "\u00e9").encode(), "no such"),
    ],
)
def test_other_encodings_are_read(body: bytes, charset: str | None) -> None:
    response = read(body, charset)
    assert (response.text, response.replaced_characters) == ("é", 0)


def test_bytes_outside_the_charset_are_replaced_and_counted() -> None:
    body = json.dumps(completion("caf?")).encode().replace(b"?", b"\xe9")
    response = read(body)
    assert (response.text, response.replaced_characters) == ("caf\ufffd", 1)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 16, "completion_tokens": 4}, (16, 4)),
        ({"prompt_tokens": 16, "completion_tokens": -700}, (-1, -1)),
        ({"prompt_tokens": 16, "completion_tokens": 2.5}, (-1, -1)),
        ({"prompt_tokens": True, "completion_tokens": 4}, (-1, -1)),
        ({"prompt_tokens": "16", "completion_tokens": "4"}, (-1, -1)),
        ({"prompt_tokens": 10**30, "completion_tokens": 4}, (-1, -1)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, (-1, -1)),
        ({"prompt_tokens": 16}, (-1, -1)),
        ([16, 4], (-1, -1)),
        (None, (-1, -1)),
    ],
)
def test_counts_that_cannot_be_true_are_not_reported(usage: Any, expected: tuple[int, int]) -> None:
    response = read({**completion(), "usage": usage})
    assert (response.prompt_tokens, response.completion_tokens) == expected


@pytest.mark.parametrize(
    "choices",
    [
        [{"message": {"content": "text"}}],
        [None, {"message": None}, {"message": {"content": "text"}}],
        {"message": {"content": "text"}},
        {"0": {"message": {"content": "text"}}},
        [{"message": "text"}],
        [{"text": "text"}],
        [{"message": {"content": ["te", {"type": "text", "text": "xt"}]}}],
        [{"message": {"content": [{"type": "output_text", "text": {"value": "text"}}, 7]}}],
        [{"message": {"content": {"type": "text", "text": "text"}}}],
        [{"message": {"content": None, "refusal": "text"}}],
    ],
)
def test_the_text_is_found(choices: Any) -> None:
    assert read({"choices": choices}).text == "text"


def test_an_object_in_place_of_its_json_is_an_answer() -> None:
    assert json.loads(read({"choices": [{"message": {"content": {"n": 1}}}]}).text) == {"n": 1}


@pytest.mark.parametrize(
    "message", [None, 7, [], {"content": 7}, {"content": [7]}, {"content": True}]
)
def test_what_holds_no_text_is_malformed(message: Any) -> None:
    found = failed({"choices": [{"index": 0, "finish_reason": "stop", "message": message}]})
    assert (found.verdict, found.code) == ("retry", "malformed")
    assert "finish_reason" in found.detail


@pytest.mark.parametrize("reason", [7, None, ["stop"], {"a": 1}])
def test_a_finish_reason_of_another_type_is_none(reason: Any) -> None:
    assert (
        read({"choices": [{"finish_reason": reason, "message": {"content": "a"}}]}).finish_reason
        is None
    )


def test_finish_reasons_of_other_dialects() -> None:
    for sent, meant in (("content_filter: SAFETY", "content_filter"), ("MAX_TOKENS", "length")):
        choice = {"finish_reason": sent, "message": {"content": ""}}
        assert read({"choices": [choice]}).finish_reason == meant


def _stream(*chunks: Any, end: str = "data: [DONE]") -> bytes:
    return "\n\n".join([*(f"data: {json.dumps(chunk)}" for chunk in chunks), end]).encode()


def test_a_stream_that_was_not_asked_for_is_put_together() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    body = _stream(
        {"choices": [{"delta": {"role": "assistant", "content": "Par"}}]},
        {"choices": [{"delta": {"content": "is"}, "finish_reason": "stop"}]},
        {"choices": [], "usage": usage},
    )
    response = read(body)
    assert (response.text, response.finish_reason, response.prompt_tokens) == ("Paris", "stop", 10)


def test_a_stream_that_was_cut_is_tried_again() -> None:
    found = failed(_stream({"choices": [{"delta": {"content": "Par"}}]}, end=""))
    assert (found.verdict, found.code) == ("retry", "malformed")


def test_an_error_in_a_stream_is_that_error() -> None:
    found = failed(_stream({"error": {"message": "overloaded", "code": 503}}))
    assert (found.verdict, found.code) == ("retry", "server_error")
    assert "overloaded" in found.detail


@pytest.mark.parametrize(
    ("error", "verdict", "code"),
    [
        ({"message": "m", "code": 502}, "retry", "server_error"),
        ({"message": "m", "code": "429"}, "retry", "rate_limited"),
        ({"message": "m", "type": "rate_limit_exceeded"}, "retry", "rate_limited"),
        ({"message": "m", "code": 401}, "key", "refused_key"),
        ({"message": "m", "code": 502.0}, "retry", "server_error"),
        ({"message": "m", "code": 17}, "retry", "server_error"),
        ("m", "retry", "server_error"),
    ],
)
def test_an_error_with_a_status_of_success_means_what_its_code_says(
    error: Any, verdict: str, code: str
) -> None:
    for body in ({"error": error}, {"error": error, "choices": None}, [{"error": error}]):
        found = failed(body)
        assert (found.verdict, found.code) == (verdict, code)
        assert found.detail.endswith(": m")


def test_an_error_of_one_choice_is_not_an_answer() -> None:
    choice = {
        "finish_reason": "error",
        "message": {"content": "Par"},
        "error": {"code": 502, "message": "gone"},
    }
    found = failed({"choices": [choice]})
    assert (found.verdict, found.code) == ("retry", "server_error")
    assert "gone" in found.detail


def test_a_web_page_is_malformed_with_its_words() -> None:
    found = failed(
        b"<html><script>x()</script><body><h1>Sign in</h1> to the &lt;hotel&gt;</body></html>"
    )
    assert (found.code, found.detail) == (
        "malformed",
        "HTTP 200: the reply holds no answer: Sign in to the <hotel>",
    )
