"""The ``openai`` engine: any server that speaks OpenAI's chat completions.

Raw aiohttp with precomputed headers: the ``openai`` package takes 5 to 13 ms of CPU a request,
this takes a twentieth. Every HTTP call goes through the run's limits (`ray_pipeline.llm.limits`);
`ray_pipeline.llm.engines.replies` decides what a failed call means.

API keys come from environment variables. They are in the headers of a request and nowhere else:
limits, logs and errors hold their labels, and keys in a server's messages are masked.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import aiohttp
import orjson
from yarl import URL

from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.llm.engines.base import RemoteEngine
from ray_pipeline.llm.engines.replies import Failure, backoff, error_fields, failure
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


# --------------------------------------------------------------------------- the body


@dataclass(frozen=True)
class Dialect:
    """The request fields that this server accepts, learnt from the requests that it refused."""

    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    left_out: frozenset[str] = frozenset()
    json_format: Literal["strict", "schema", "object", "none"] = "strict"

    def after_refusal(self, status: int, body: bytes) -> Dialect | None:
        """The dialect to try next if the server refused a field of the request; else None."""
        if status not in (400, 422):
            return None
        error = error_fields(body)
        text = f"{error.message} {error.param}"
        if "max_completion_tokens" in text and self.max_tokens_field == "max_tokens":
            return replace(self, max_tokens_field="max_completion_tokens")
        if re.search(r"response_format|json_schema|additionalProperties", text):
            softer = {"strict": "schema", "schema": "object", "object": "none"}
            if (json_format := softer.get(self.json_format)) is not None:
                return replace(self, json_format=json_format)  # type: ignore[arg-type]
        for field in ("seed", "temperature", "top_p"):
            if field not in self.left_out and _refuses(field, error.code, text):
                return replace(self, left_out=self.left_out | {field})
        return None


def _refuses(field: str, code: str, text: str) -> bool:
    unknown = code in ("unsupported_parameter", "unsupported_value") or _UNSUPPORTED.search(text)
    return bool(unknown) and re.search(rf"\b{field}\b", text) is not None


_UNSUPPORTED = re.compile(r"unsupported|unrecognized|not permitted|not supported", re.IGNORECASE)


def request_body(config: LlmConfig, request: Request, dialect: Dialect) -> bytes:
    """The JSON body of a request, in this server's dialect."""
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": config.model,
        "messages": request.messages,
        dialect.max_tokens_field: sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": request.sampling_seed(),
    }
    if sampling.stop:
        body["stop"] = sampling.stop
    # A label is requested as plain text: no way to force one works on every server, and the
    # answer is checked against the labels anyway.
    if request.format.kind == "json" and dialect.json_format != "none":
        body["response_format"] = _response_format(request.format.schema or {}, dialect)
    for field in dialect.left_out:
        del body[field]
    body.update(config.extra_body)
    return orjson.dumps(body)


def _response_format(schema: dict[str, Any], dialect: Dialect) -> dict[str, Any]:
    if dialect.json_format == "object":
        return {"type": "json_object"}
    strict = dialect.json_format == "strict"
    form = {"name": "answer", "schema": schema, "strict": strict}
    return {"type": "json_schema", "json_schema": form}


# --------------------------------------------------------------------------- the engine


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
            UserError: an environment variable is not set or holds no key, or ``base_url`` is not
                a URL.
        """
        super().check(name, config)
        _completions_url(name, config)

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
            failed = _connection_failure(error, self._config.timeout_seconds)
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
        if failed.verdict == "key":
            lease.retire(failed.detail)
        if failed.pause_seconds:
            lease.pause(failed.pause_seconds)
        lease.release()
        return None if self._learn(dialect, status, reply) else failed

    async def _post(self, label: str, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        session = self._session or self._open_session()
        async with session.post(
            self._url, data=body, headers=self._headers[label], allow_redirects=False
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
            trust_env=any(name.lower().endswith("_proxy") for name in os.environ),
        )
        return self._session

    def _settle(self, lease: Lease, request: Request, reply: bytes) -> Response | Failure:
        response = _parse(reply)
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


def _parse(reply: bytes) -> Response | None:
    """The answer in a reply; None when there is none. Tokens are -1 where usage is missing."""
    try:
        parsed = orjson.loads(reply)
        choice = parsed["choices"][0]
        message = choice["message"]
        text = _content(message)
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


def _content(message: dict[str, Any]) -> str | None:
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
