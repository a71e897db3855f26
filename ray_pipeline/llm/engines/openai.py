"""The ``openai`` engine: any server that speaks OpenAI's chat completions.

Raw aiohttp with precomputed headers: the ``openai`` package takes 5 to 13 ms of CPU a request,
this takes a twentieth. Every HTTP call goes through the run's limits (`ray_pipeline.llm.limits`).
`requests` makes the body, `answers` reads a successful reply, and `replies` decides what a failed
call means.

API keys come from environment variables. They are in the headers of a request and nowhere else:
limits, logs and errors hold their labels, and keys in a server's messages are masked.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.llm.engines.answers import read_answer
from ray_pipeline.llm.engines.base import RemoteEngine
from ray_pipeline.llm.engines.proxies import bypassed, proxy_for
from ray_pipeline.llm.engines.replies import Failure, backoff, failure
from ray_pipeline.llm.engines.requests import Dialect, request_body
from ray_pipeline.llm.engines.tokens import (
    RequestTokens,
    prompt_bytes,
    request_tokens,
    text_tokens,
)
from ray_pipeline.llm.limits.client import LimitsClient
from ray_pipeline.llm.limits.leases import Lease
from ray_pipeline.llm.limits.protocol import Estimate
from ray_pipeline.llm.types import EngineError, Request
from ray_pipeline.rundir.responses import Response

if TYPE_CHECKING:
    from ray_pipeline.llm.config import LlmConfig

_log = logging.getLogger(__name__)

DEFAULT_BASE_URL = "https://api.openai.com/v1"
_CONNECT_SECONDS = 30.0


def _completions_url(name: str, config: LlmConfig) -> URL:
    base = config.base_url or DEFAULT_BASE_URL
    try:
        url = URL(base)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise UserError(f"llms.{name}.base_url: {base!r} is not a URL like https://host/v1")
    return url.with_path(f"{url.path.rstrip('/')}/chat/completions", keep_query=True)


class OpenAIEngine(RemoteEngine):
    """Answers requests through an OpenAI-compatible server.

    Args:
        name: the model's name under ``llms``.
        config: its configuration.
        limits: this process's share of the run's limits.

    Raises:
        UserError: as `check`.
    """

    def __init__(self, name: str, config: LlmConfig, limits: LimitsClient) -> None:
        self._name = name
        self._config = config
        self._url = _completions_url(name, config)
        self._proxy = proxy_for(self._url)
        keys = self.read_keys(name, config)
        self._secrets = [key for key in keys.values() if key]
        self._headers = {label: _headers(key) for label, key in keys.items()}
        self._limits = limits.llm(name, self.key_limits(name, config))
        self._dialect = Dialect()
        self._session: aiohttp.ClientSession | None = None
        self._answered_at = -math.inf
        self._warned: set[str] = set()

    @classmethod
    def check(cls, name: str, config: LlmConfig) -> None:
        """Check that the model's API keys are set and that its URL is valid. Sends no request.

        Raises:
            UserError: an environment variable is not set or holds no key, ``base_url`` is not
                a URL, or the proxy of the environment cannot be used.
        """
        super().check(name, config)
        proxy_for(_completions_url(name, config))

    @classmethod
    def check_network(cls, name: str, config: LlmConfig) -> str | None:
        """Check that the proxy in front of the server can be reached, if there is one."""
        url = _completions_url(name, config)
        if (proxy := proxy_for(url)) is not None:
            proxy.check(url)
        if (variable := bypassed(url)) is None:
            return None
        return (
            f"llms.{name}: {url.origin()} is on this machine: it is asked directly, not through "
            f"the proxy of the environment variable {variable}"
        )

    @classmethod
    def request_tokens(cls, config: LlmConfig, request: Request) -> RequestTokens:
        """Tokens that a request may use; ``extra_body`` may ask for longer or several answers."""
        tokens = request_tokens(request)
        extra = config.extra_body
        limits = (extra.get("max_tokens"), extra.get("max_completion_tokens"))
        longest = max(tokens.completion, *(int(limit or 0) for limit in limits))
        return replace(tokens, completion=longest * int(extra.get("n") or 1))

    def __repr__(self) -> str:
        return f"OpenAIEngine({self._name!r}, {self._config.model!r})"

    async def generate(self, request: Request) -> Response:
        """Answer one request; errors that may be temporary are retried.

        Raises:
            EngineError: no answer. Codes: ``rate_limited``, ``server_error``, ``timeout``,
                ``connection`` and ``malformed`` after all tries; ``context_length``,
                ``content_filter`` and ``bad_request`` at once.
            BudgetExhausted: the budget does not allow it.
            RunError: no usable key is left, the server does not know the model or the path, or
                it can't be reached at all.
        """
        loop = asyncio.get_running_loop()
        tokens = self.request_tokens(self._config, request)
        estimate = tokens.reservation(self._config.usd_per_million)
        dialect = self._dialect
        body = request_body(self._config, request, dialect)
        started: float | None = None
        attempt = 1
        while True:
            lease = await self._start(estimate, started)
            if started is None:
                started = loop.time()
            if dialect is not self._dialect:  # learnt by another request meanwhile
                dialect = self._dialect
                body = request_body(self._config, request, dialect)
            outcome = await self._try(lease, request, body, dialect)
            if isinstance(outcome, Response):
                outcome.attempts = attempt
                outcome.seconds = loop.time() - started
                return outcome
            if outcome is None:
                continue  # the server refused a field: the same try again, without it
            wait = self._wait_after(outcome, attempt, started)
            attempt += 1
            if wait > 0:
                await asyncio.sleep(wait)

    async def close(self) -> None:
        """Close connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _start(self, estimate: Estimate, started: float | None) -> Lease:
        """Wait for permission to try; a retry gives up when its time is over."""
        if started is None:
            return await self._limits.start(estimate)
        deadline = started + self._config.give_up_after_seconds
        try:
            async with asyncio.timeout_at(deadline):
                return await self._limits.start(estimate, again=True)
        except TimeoutError:
            limit = self._config.give_up_after_seconds
            detail = f"the API limits left no room for another try within {limit:g} s"
            raise EngineError("rate_limited", detail) from None

    def _wait_after(self, failed: Failure, attempt: int, started: float) -> float:
        """Seconds until the next try.

        Raises:
            EngineError: this request is not tried again.
            RunError: no request can succeed, so the run stops.
        """
        config = self._config
        if failed.verdict == "run":
            raise RunError(f"llms.{self._name}: {self._mask(failed.detail)} ({self._url})")
        detail = self._mask(failed.detail)
        if failed.verdict == "row":
            raise EngineError(failed.code, detail, attempt, failed.raw)
        if failed.verdict == "key":
            return 0.0  # the limits choose another one
        # After a pause that the server asked for, the limits choose when, and with which key.
        wait = 0.0 if failed.pause_seconds else backoff(attempt, config.max_backoff_seconds)
        elapsed = asyncio.get_running_loop().time() - started
        if attempt >= config.max_tries or elapsed + wait > config.give_up_after_seconds:
            self._check_server(failed, attempt, started)
            raise EngineError(failed.code, f"{detail} (after {attempt} tries)", attempt, failed.raw)
        return wait

    def _check_server(self, failed: Failure, attempt: int, started: float) -> None:
        """Stop the run if the server is down, instead of failing row after row.

        That is so when no request got an answer since this one began, and either no connection
        could be made (which is no request's fault) or there has never been an answer.
        """
        if failed.code not in ("connection", "unreachable") or self._answered_at >= started:
            return
        if failed.code == "unreachable" or self._answered_at == -math.inf:
            raise RunError(
                f"llms.{self._name}: {self._url.origin()} does not answer: {failed.detail} "
                f"(after {attempt} tries); is base_url right, and the server up?"
            )

    # One try

    async def _try(
        self, lease: Lease, request: Request, body: bytes, dialect: Dialect
    ) -> Response | Failure | None:
        """Make one HTTP call and end the lease. None: repeat it in the dialect just learnt."""
        try:
            status, headers, reply = await self._post(lease.key_label, body)
        except BaseException as error:
            failed = self._proxy and self._proxy.refusal(error, self._url)
            failed = failed or _connection_failure(error, self._config.timeout_seconds)
            if failed is not None and failed.code == "unreachable":
                lease.release()
            else:
                lease.lose()
            if failed is None:
                raise
            return failed
        self._answered_at = asyncio.get_running_loop().time()
        if status == 200:
            return self._settle(lease, request, reply)
        failed = failure(status, headers, reply)
        if self._proxy is not None:
            failed = self._proxy.named_in(failed, status, self._url)
        if failed.verdict == "key":
            lease.retire(failed.detail)
        if failed.pause_seconds:
            lease.pause(failed.pause_seconds)
        lease.release()
        return None if self._learn(dialect, status, reply) else failed

    async def _post(self, label: str, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        session = self._session or self._open_session()
        async with session.post(
            self._url,
            data=body,
            headers=self._headers[label],
            allow_redirects=False,
            proxy=self._proxy and self._proxy.url,
        ) as reply:
            return reply.status, reply.headers, await reply.read()

    def _open_session(self) -> aiohttp.ClientSession:
        timeout = self._config.timeout_seconds
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300),
            timeout=aiohttp.ClientTimeout(
                total=timeout, sock_connect=min(timeout, _CONNECT_SECONDS)
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self._session

    def _settle(self, lease: Lease, request: Request, reply: bytes) -> Response | Failure:
        response = read_answer(reply)
        if response is None:
            lease.lose()
            raw = self._mask(reply.decode("utf-8", "replace"))
            return Failure("retry", "malformed", "the reply holds no answer", raw=raw)
        if response.prompt_tokens < 0:
            self._warn("usage", "the server reports no token usage; it is estimated from lengths")
            response.prompt_tokens = text_tokens(prompt_bytes(request))
            response.completion_tokens = text_tokens(len(response.text.encode()))
        if prices := self._config.usd_per_million:
            response.cost_usd = prices.cost(
                response.prompt_tokens, response.completion_tokens, response.cached_prompt_tokens
            )
        lease.settle(response.prompt_tokens + response.completion_tokens, response.cost_usd)
        return response

    def _learn(self, used: Dialect, status: int, reply: bytes) -> bool:
        """Switch to another dialect if the server refused this one; returns whether it did."""
        better = used.after_refusal(status, reply)
        if better is None:
            return False
        if self._dialect is used:
            self._dialect = better
            self._warn(str(better), f"the server refused a field of the request; now {better}")
        return True

    def _warn(self, topic: str, message: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            _log.warning("llms.%s: %s", self._name, message)

    def _mask(self, text: str) -> str:
        """A server's message with everything that looks like a key masked."""
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
        return _KEY_LIKE.sub("[key]", text)


_KEY_LIKE = re.compile(r"\b(?:sk|pk|key|gsk|xai)-[\w*.-]{6,}", re.IGNORECASE)


def _headers(key: str | None) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _connection_failure(error: BaseException, timeout: float) -> Failure | None:
    """The failure that an exception of the HTTP call means; None: not a connection error."""
    # Only the kind of error goes into the text: an HTTP library's message may quote the request.
    kind = type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        why = error.strerror if isinstance(error, OSError) and error.strerror else kind
        return Failure("retry", "unreachable", f"no connection: {why}")
    if isinstance(error, TimeoutError):
        return Failure("retry", "timeout", f"no reply within {timeout:g} s")
    if isinstance(error, aiohttp.ClientError | OSError):
        return Failure("retry", "connection", f"the connection broke: {kind}")
    return None
