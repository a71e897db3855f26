"""Bodies of replies as hypothesis draws them: proper ones, odd ones, broken ones."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st
from support.scripted_server import cases, completion

#: JSON of any shape, with what strict JSON lacks: NaN, infinity, lone surrogates.
_TEXTS = st.text(st.characters(exclude_categories=[]), max_size=8)
_NUMBERS = st.integers() | st.floats() | st.integers(10**19, 10**40) | st.just(-700)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=8,
)
_ERRORS: list[Any] = [
    {"error": {"message": "Provider returned error", "code": 502, "metadata": {"raw": "x"}}},
    [{"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED", "details": [
        {"@type": "t", "violations": [{"quotaId": "PerDay"}]}, {"retryDelay": "3s"}]}}],
    {"detail": [{"loc": ["body", "seed"], "msg": "bad value"}]},
    {"object": "error", "message": {"detail": [{"loc": ["body"], "msg": "m"}]}, "code": "1500"},
    {"error": {"message": '{"error": {"message": "a", "code": 403}}', "innererror": {"code": "x"}}},
    {"message": {"role": "assistant", "content": "as Ollama sends it"}, "done": True},
    {"promptFeedback": {"blockReason": "SAFETY"}},
]  # fmt: skip
_MESSAGE = {
    "role": "assistant",
    "content": [{"type": "thinking", "thinking": [{"text": "so"}]}, {"type": "text", "text": "a"}],
    "refusal": None,
    "reasoning_content": "thoughts",
}
_PROPER: list[Any] = [
    completion("Paris \ud83d is the capital"),
    {**completion(), "choices": [{"finish_reason": "stop", "message": _MESSAGE}]},
    {
        **completion(),
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 20,
            "prompt_tokens_details": {"cached_tokens": 3},
            "completion_tokens_details": {"reasoning_tokens": 5},
        },
    },
    *_ERRORS,
]


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, inner in items:
        yield from _places(inner, (*path, key))


def _replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    value = copy.deepcopy(value)
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = new
    return value


@st.composite
def swapped(draw: st.DrawFn) -> Any:
    """A proper reply in which one or two values have another type."""
    value = draw(st.sampled_from(_PROPER))
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.sampled_from(list(_places(value))))
        value = _replaced(value, place, draw(ANY_JSON))
    return value


def _written(value: Any, ascii_only: bool) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


@st.composite
def _streams(draw: st.DrawFn) -> bytes:
    """A stream of events, proper or not."""
    deltas = [
        {"choices": [{"index": 0, "delta": draw(ANY_JSON | st.just({"content": "Par"}))}]},
        {"choices": [{"index": 0, "delta": {"content": "is"}, "finish_reason": "stop"}]},
        draw(ANY_JSON | swapped()),
    ]
    lines = [b"data: " + _written(delta, True) for delta in deltas]
    lines.append(draw(st.sampled_from([b"data: [DONE]", b": ping", b"", b"event: error"])))
    return b"\n\n".join(draw(st.permutations(lines)))


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """The bytes of a reply's body."""
    value = draw(swapped() | ANY_JSON)
    plain = _written(value, draw(st.booleans()))
    known = st.sampled_from([reply.body for reply, _ in cases().values()])
    body: bytes = draw(st.just(plain) | _streams() | known | st.binary(max_size=40))
    for change in draw(st.lists(st.sampled_from(_CHANGES), max_size=2)):
        body = change(draw, body)
    return body


def _cut(draw: st.DrawFn, body: bytes) -> bytes:
    return body[: draw(st.integers(0, len(body)))]


def _byte(draw: st.DrawFn, body: bytes) -> bytes:
    at = draw(st.integers(0, len(body)))
    return body[:at] + draw(st.binary(min_size=1, max_size=2)) + body[at + 1 :]


def _mark(draw: st.DrawFn, body: bytes) -> bytes:
    return draw(st.sampled_from([b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x1f\x8b"])) + body


def _zipped(_: st.DrawFn, body: bytes) -> bytes:
    return gzip.compress(body)


def _recoded(draw: st.DrawFn, body: bytes) -> bytes:
    encoding = draw(st.sampled_from(["utf-16", "latin-1", "utf-32", "shift_jis", "cp1252"]))
    return body.decode("utf-8", "replace").encode(encoding, "replace")


def _nested(draw: st.DrawFn, body: bytes) -> bytes:
    depth = draw(st.sampled_from([3, 300, 2000, 100_000]))
    return b"[" * depth + body + b"]" * depth


_CHANGES = [_cut, _byte, _mark, _zipped, _recoded, _nested]
CHARSETS = st.sampled_from([None, "utf-8", "latin-1", "utf-16", "hex", "no such", "idna", "\0"])
STATUSES = st.sampled_from(
    [*[200] * 8, 201, 204, 302, 400, 401, 402, 403, 404, 407, 408, 413, 422, 429, 500, 503, 529]
)
_NAMES = ("retry-after", "retry-after-ms", "x-ratelimit-remaining-requests")
_DATE = "Wed, 21 Oct 0001 07:28:10 GMT"
HEADERS = st.dictionaries(
    st.sampled_from([*_NAMES, "x-ratelimit-reset-requests"]),
    st.sampled_from(
        ["1", "0", "-1", "nan", "inf", "1e400", "soon", _DATE, "6m0s", "9" * 400 + "s"]
    ),
    max_size=3,
)
