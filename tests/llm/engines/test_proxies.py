"""Proxies of the environment: which servers are asked through one, and what its failures say."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator

import pytest
from support.mock_openai import MockServer
from yarl import URL

from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.llm.config import LlmConfig
from ray_pipeline.llm.engines.base import key_limits
from ray_pipeline.llm.engines.openai import OpenAIEngine
from ray_pipeline.llm.engines.proxies import bypassed, proxy_for
from ray_pipeline.llm.limits.client import LimitsClient
from ray_pipeline.llm.limits.protocol import ClientReport, Grants
from ray_pipeline.llm.limits.server import LimitsServer
from ray_pipeline.llm.types import EngineError, Request

DEAD = "http://user:hidden@127.0.0.1:1"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def config(url: str, max_tries: int = 8) -> LlmConfig:
    return LlmConfig(model="m", engine="openai", base_url=url, api_keys_env=[], max_tries=max_tries)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.9.1", "localhost", "LOCALHOST.", "a.localhost", "[::1]", "0.0.0.0"]
)
def test_a_server_on_this_machine_is_asked_directly(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = URL(f"http://{host}:8000/v1")
    assert bypassed(url) is None
    monkeypatch.setenv("HTTP_PROXY", DEAD)
    assert proxy_for(url) is None
    assert bypassed(url) == "HTTP_PROXY"


def test_other_servers_are_asked_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    http, https = URL("http://models.example/v1"), URL("https://models.example/v1")
    assert proxy_for(http) is None
    monkeypatch.setenv("all_proxy", "proxy:1")
    assert str(proxy_for(https)) == "the proxy http://proxy:1 of the environment variable all_proxy"
    monkeypatch.setenv("HTTPS_PROXY", DEAD)
    assert str(proxy_for(https)).startswith("the proxy http://127.0.0.1:1 of the environment")
    assert "hidden" not in str(proxy_for(https))
    assert bypassed(https) is None
    monkeypatch.setenv("NO_PROXY", "models.example")
    assert proxy_for(https) is None


@pytest.mark.parametrize("value", ["socks5://proxy:1080", "https://user:hidden@proxy:1", "http://"])
def test_a_proxy_that_cannot_be_used_is_refused(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    with pytest.raises(UserError, match=r"HTTPS_PROXY holds .*NO_PROXY=models\.example") as raised:
        OpenAIEngine.check("llm", config("https://models.example/v1"))
    assert "hidden" not in str(raised.value)


def test_a_proxy_that_cannot_be_reached_is_found_before_a_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", DEAD)
    with pytest.raises(
        UserError, match=r"https://models\.example is to be asked through the proxy"
    ):
        OpenAIEngine.check_network("llm", config("https://models.example/v1"))
    note = OpenAIEngine.check_network("llm", config("https://127.0.0.1:1/v1"))
    assert note is not None and "not through the proxy of the environment" in note
    monkeypatch.delenv("HTTPS_PROXY")
    assert OpenAIEngine.check_network("llm", config("https://models.example/v1")) is None


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """A proxy that answers every request with the one reply that the test puts into the list."""
    replies: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(1 << 16)
                connection.sendall(replies[0] + b"\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield replies
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize(
    ("url", "reply", "error", "words"),
    [
        ("https", b"HTTP/1.1 407 Wanted", RunError, "answers HTTP 407"),
        ("https", b"HTTP/1.1 403 Forbidden", RunError, "answers HTTP 403"),
        ("http", b"HTTP/1.1 407 Wanted", RunError, "HTTP 407: from the proxy http://127"),
        ("https", b"HTTP/1.1 502 Bad Gateway", RunError, "does not answer: the proxy http://127"),
        ("http", b"HTTP/1.1 502 Bad Gateway", EngineError, "HTTP 502 .through the proxy http"),
    ],
)
def test_what_a_proxy_refuses_names_the_proxy(
    proxy: list[bytes], url: str, reply: bytes, error: type[Exception], words: str
) -> None:
    proxy.append(reply)
    with pytest.raises(error, match=words):
        asyncio.run(_ask(f"{url}://models.example/v1"))


async def _ask(url: str) -> None:
    llm = config(url, max_tries=2)
    server = LimitsServer(key_limits({"llm": llm}))

    async def call(report: ClientReport) -> Grants:
        return server.sync(report)

    limits = LimitsClient("test", call)
    engine = OpenAIEngine("llm", llm, limits)
    try:
        await engine.generate(Request("stage", "m", "", ({"role": "user", "content": "hello"},)))
    finally:
        await limits.close()
        await engine.close()


def test_a_server_on_this_machine_answers_in_spite_of_a_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with MockServer() as server:
        with monkeypatch.context() as patch:
            for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
                patch.setenv(name, DEAD)
            asyncio.run(_ask(server.base_url))
        assert server.stats()["completed"] == 1
