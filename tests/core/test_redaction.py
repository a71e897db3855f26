"""What is taken for a secret, and what is not."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.soak import EXAMPLES

from ray_pipeline.core import redaction
from ray_pipeline.core.redaction import (
    HIDDEN,
    SHORTEST,
    is_secret,
    literal_secrets,
    redacted,
    redacted_data,
    spellings,
    without,
    without_known,
)

#: A text, and what is left of it.
TEXTS = [
    ("http://user:pw@host/v1?key=abc&n=1", f"http://{HIDDEN}@host/v1?key={HIDDEN}&n=1"),
    ("no proxy at http://u:p@@odd:1@host:80/x", f"no proxy at http://{HIDDEN}@host:80/x"),
    ("https://token@host/x", f"https://{HIDDEN}@host/x"),
    ("s3://AKIDEXAMPLE:se/cret+@bucket/x", f"s3://{HIDDEN}@bucket/x"),
    ("GET x?X-Amz-Signature=abc&part=1", f"GET x?X-Amz-Signature={HIDDEN}&part=1"),
    ("bad key sk-proj-abcd1234efgh5678.", f"bad key {HIDDEN}."),
    ("AKIAIOSFODNN7EXAMPLE is not known", f"{HIDDEN} is not known"),
    ("{'api_key': 'a b', 'n': 1}", f"{{'api_key': '{HIDDEN}', 'n': 1}}"),
    ('{\\"password\\": \\"x\\"}', f'{{\\"password\\": \\"{HIDDEN}\\"}}'),
    ("  api_key: abc\n  name: x", f"  api_key: {HIDDEN}\n  name: x"),
    ("Authorization: Bearer abc", f"Authorization: {HIDDEN}"),
    ("--set llms.x.extra_body.api_key=abc", f"--set llms.x.extra_body.api_key={HIDDEN}"),
]
#: Texts that hold none.
ORDINARY = [
    "http://host:8080/x?email=a@b",
    "hdfs://someone@host/x",
    "abfs://container@account.dfs.core.windows.net/x",
    "s3://bucket/user@host/x",
    "https://${USER}:${PASSWORD}@host/v1?key=${KEY}",
    "Authorization: Bearer ${KEY}",
    "llms.a.extra_body.api_key: it is a secret",
    "budget.max_tokens=5, api_keys_env: [] for a server without keys",
    "set RAY_AUTH_TOKEN in the environment",
    "/data/key-value-pairs/sk-learn-classification-models.csv",
    "Bearer certificates and Basic understanding",
]


@pytest.mark.parametrize(("text", "left"), TEXTS)
def test_what_looks_like_a_secret_is_hidden_once_and_for_all(text: str, left: str) -> None:
    assert redacted(text) == left
    assert redacted(left) == left


@pytest.mark.parametrize("text", ORDINARY)
def test_an_ordinary_text_stays(text: str) -> None:
    assert redacted(text) == text


def test_secrets_of_the_environment_are_known_by_their_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "orchid7731marble")
    monkeypatch.setenv("HTTPS_PROXY", "http://someone:pass-word-1@proxy:3128")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "parallelism")
    monkeypatch.setenv("TOKEN", "test")  # a word like any other
    monkeypatch.setenv("CREDENTIALS", "/home/someone/file.json")
    text = "orchid7731marble pass-word-1 parallelism test /home/someone/file.json"
    assert without_known(text) == f"{HIDDEN} {HIDDEN} parallelism test /home/someone/file.json"


def test_a_secret_is_found_however_it_is_spelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_remembered", set())
    redaction.remember("p@ss\"w/ord's\\ü")
    spelled = ["p@ss\"w/ord's\\ü", "p%40ss%22w%2Ford%27s%5C%C3%BC", "p@ss\\\"w/ord's\\\\\\u00fc"]
    spelled += ["p@ss&quot;w/ord&#x27;s\\ü", "p@ss&#34;w/ord&#39;s\\ü"]
    for text in spelled:
        assert without_known(f"<{text}>") == f"<{HIDDEN}>"


@pytest.mark.parametrize(
    ("name", "value", "is_free", "expected"),
    [
        ("api_key", "abc", False, True),
        ("X-Api-Key", "abc", True, True),
        ("hfToken", "abc", True, True),
        ("password", 12345, False, True),
        ("Authorization", "Bearer abc", True, True),
        ("secrets", ["a1", "b2"], True, True),
        ("key", "abc", True, True),
        ("key", "question", False, False),
        ("api_key", "${KEY}", True, False),
        ("api_key", "EMPTY", True, False),
        ("api_keys_env", ["OPENAI_API_KEY"], False, False),
        ("max_tokens", 128, True, False),
        ("eos_token", "</s>", True, False),
        ("prompt_cache_key", "job", True, False),
        ("stop_token_ids", [1, 2], True, False),
        ("tokenizer", "gpt2", True, False),
        ("skip_special_tokens", True, True, False),
    ],
)
def test_fields_are_told_by_their_names(
    name: str, value: Any, is_free: bool, expected: bool
) -> None:
    assert is_secret(name, value, is_free) is expected


def test_plain_data_is_hidden_and_found_at_any_depth() -> None:
    settings = {
        "base_url": "http://u:p@h/v1",
        "extra_body": {"provider": [{"token": "abc"}], "max_tokens": 5},
        "source": {"path": ["a.csv", "s3://b/c?sig=def"], "key": "column"},
    }
    assert [key for key, _, _ in literal_secrets(settings)] == [
        "base_url", "extra_body.provider.0.token", "source.path.1"
    ]  # fmt: skip
    shown = redacted_data(settings)
    assert shown["extra_body"] == {"provider": [{"token": HIDDEN}], "max_tokens": 5}
    assert shown["source"] == {"path": ["a.csv", f"s3://b/c?sig={HIDDEN}"], "key": "column"}
    assert list(literal_secrets(shown)) == []


HOSTILE = [
    "a://",
    "a://b:",
    "Bearer ",
    "api_key",
    "api_key=",
    "&key",
    "eyJ",
    "sk-",
    "'password': '",
]
HOSTILE += [" ", "a", "\n", "?", "://", "hf_a", "-----BEGIN PRIVATE KEY-----", "a@", "key="]


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_long_hostile_text_is_read_in_linear_time(piece: str) -> None:
    # With an unbounded pattern it would take minutes.
    assert redacted(piece * (300_000 // len(piece)))


# --------------------------------------------------------------------------- any secret, any text

WRITTEN: list[Callable[[str], str]] = [
    str,
    repr,
    html.escape,
    lambda secret: quote(secret, safe=""),
    json.dumps,
    lambda secret: json.dumps(json.dumps({"error": secret})),
    lambda secret: json.dumps(secret, ensure_ascii=False),
    lambda secret: f"{ValueError(f'no login with {secret}')!r}",
]
#: Pieces of texts that hold what looks like secrets, and of ones that nearly do.
PIECES = [
    "http://",
    "s3://",
    "a:b@",
    "@",
    "host",
    "/v1",
    "?",
    "key=",
    "&",
    "api_key",
    ": ",
    "=",
    "'",
]
PIECES += [
    '"',
    "Bearer ",
    "sk-abcd1234efgh5678",
    "${NAME}",
    "[hidden]",
    "\n",
    " ",
    "password",
    "8080",
]
PIECES += ["AKIAIOSFODNN7EXAMPLE", "\\", "{", "}", "Authorization", ":", "token", "1"]


@given(st.text(min_size=SHORTEST, max_size=24), st.sampled_from(WRITTEN), st.text(max_size=9))
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_secret_of_any_characters_is_hidden_however_it_is_written(
    secret: str, write: Callable[[str], str], around: str
) -> None:
    text = f"{around}<{write(secret)}>"
    hidden = without([secret], text)
    for form in spellings(secret):
        assert form not in hidden or form in HIDDEN or form in around + "<>"


@given(st.lists(st.sampled_from(PIECES), max_size=16).map("".join))
@settings(max_examples=EXAMPLES, deadline=None)
def test_what_is_hidden_once_stays_as_it_is(text: str) -> None:
    once = redacted(text)
    assert redacted(once) == once
