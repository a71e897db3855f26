"""Values of the environment in a configuration."""

from __future__ import annotations

from typing import Any

import pytest

from ray_pipeline.core.errors import UserError
from ray_pipeline.core.redaction import HIDDEN, without_known
from ray_pipeline.core.references import names_in, resolve, resolve_login, resolve_url


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER_A", "some/one")
    monkeypatch.setenv("LOGIN_A", "p@ss:w/ord?")
    monkeypatch.setenv("GATEWAY", "https://host/gate")
    monkeypatch.delenv("NOT_SET", raising=False)


def test_values_are_put_in_at_any_depth_and_known_from_then_on() -> None:
    body = {"a": [{"${USER_A}": "Bearer ${LOGIN_A}!"}], "n": 1, "text": "$${LOGIN_A} ${} $X"}
    assert list(names_in(body)) == ["LOGIN_A"]
    assert resolve(body, "extra_body") == {
        "a": [{"${USER_A}": "Bearer p@ss:w/ord?!"}], "n": 1, "text": "${LOGIN_A} ${} $X"
    }  # fmt: skip
    assert without_known("is p@ss:w/ord? right") == f"is {HIDDEN} right"


def test_a_url_escapes_values_before_the_host_and_after_the_question_mark() -> None:
    url = "https://${USER_A}:${LOGIN_A}@host/v1?key=${LOGIN_A}"
    resolved = "https://some%2Fone:p%40ss%3Aw%2Ford%3F@host/v1?key=p%40ss%3Aw%2Ford%3F"
    assert resolve_url(url, "base_url") == resolved
    assert resolve_url("${GATEWAY}/v1", "base_url") == "https://host/gate/v1"
    assert resolve_url("http://host:1/v1", "base_url") == "http://host:1/v1"


def test_storage_has_values_in_its_login_only() -> None:
    uri = "s3://${USER_A}:${LOGIN_A}@bucket/${date}/a@b"
    assert resolve_login(uri, uri) == "s3://some%2Fone:p%40ss%3Aw%2Ford%3F@bucket/${date}/a@b"
    assert resolve_login("s3://bucket/${date}", "x") == "s3://bucket/${date}"


def test_a_variable_that_is_not_set_is_named_with_its_place() -> None:
    with pytest.raises(UserError, match=r"^llms\.a\.extra_body\.b: .* NOT_SET is not set"):
        resolve({"b": "${NOT_SET}"}, "llms.a.extra_body")


def test_object_storage_takes_the_login_that_its_uri_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ray_pipeline.core import storage

    made: dict[str, Any] = {}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(storage.pafs, "S3FileSystem", lambda **options: made.update(options))
    _, path = storage.filesystem("s3://${USER_A}:${LOGIN_A}@bucket/a/b@c")
    assert path == "bucket/a/b@c"
    assert (made["access_key"], made["secret_key"]) == ("some/one", "p@ss:w/ord?")
    made.clear()
    assert storage.filesystem("s3://bucket/a@b")[1] == "bucket/a@b" and "access_key" not in made
