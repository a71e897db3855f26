"""The ``openai`` engine: any server that speaks OpenAI's chat completions.

Raw aiohttp with precomputed headers: the ``openai`` package takes 5 to 13 ms of CPU a request,
this takes a twentieth. Every HTTP call goes through the run's limits (`ray_pipeline.llm.limits`).
`requests` makes the body, `answers` reads a successful reply, and `replies` decides what a failed
call means.

API keys come from environment variables. They are in the headers of a request and nowhere else:
limits, logs and errors hold their labels, and keys in a server's messages are hidden. So are all
other secrets of the configuration, which come from the environment, too (`credentials`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import aiohttp

from ray_pipeline.core.errors import RunError
from ray_pipeline.llm.engines.answers import read_answer
from ray_pipeline.llm.engines.base import RemoteEngine
from ray_pipeline.llm.engines.credentials import Credentials, completions_url
from ray_pipeline.llm.engines.proxies import bypassed, proxy_for
from ray_pipeline.llm.engines.refusals import Probe, Refusals
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
from ray_pipeline.llm.limits.protocol import PICODOLLARS, Estimate
from ray_pipeline.llm.types import Cancelled, EngineError, Message, Request, Sampling
from ray_pipeline.rundir.responses import Response

if TYPE_CHECKING:
    from ray_pipeline.llm.config import LlmConfig

_log = logging.getLogger(__name__)

_CONNECT_SECONDS = 30.0


class _Lost:
    """Tries of one request that got no reply, and what they may have cost at most.

    A test request that shows why the request was refused counts with it.
    """

    def __init__(self) -> None:
        self.tries = 0
        self.tokens = 0
        self.usd = 0.0

    @contextlib.contextmanager
    def counted(self, lease: Lease) -> Iterator[Lease]:
        """The lease of a try, as a context manager that counts the try if it was lost."""
        try:
            with lease:
                yield lease
        finally:
            self.tries += lease.lost.tokens > 0
            self.tokens += lease.lost.tokens
            self.usd += lease.lost.cost / PICODOLLARS


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
        self._sent = Credentials(name, config, self.read_keys(name, config))
        self._url = self._sent.url
        self._proxy = proxy_for(self._url)
        patience = config.give_up_after_seconds
        self._limits = limits.llm(name, self.key_limits(name, config), patience)
        self._dialect = Dialect()
        self._session: aiohttp.ClientSession | None = None
        self._answered_at = -math.inf
        self._refusals = Refusals(self._probe)
        self._warned: set[str] = set()

    @classmethod
    def check(cls, name: str, config: LlmConfig) -> None:
        """Check that the model's API keys are set and that its URL is valid. Sends no request.

        Raises:
            UserError: an environment variable is not set or holds no key, ``base_url`` is not
                a URL, or the proxy of the environment cannot be used.
        """
        super().check(name, config)
        proxy_for(completions_url(name, config))

    @classmethod
    def check_network(cls, name: str, config: LlmConfig) -> str | None:
        """Check that the proxy in front of the server can be reached, if there is one."""
        url = completions_url(name, config)
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
        lost = _Lost()
        try:
            response = await self._answer(request, lost)
        except EngineError as error:
            error.lost_tokens, error.lost_usd = lost.tokens, lost.usd
            raise
        except asyncio.CancelledError:
            if not lost.tries:
                raise
            raise Cancelled(lost.tries, lost.tokens, lost.usd) from None
        response.lost_tokens, response.lost_usd = lost.tokens, lost.usd
        return response

    async def _answer(self, request: Request, lost: _Lost) -> Response:
        """As `generate`; counts the tries without a reply in ``lost``."""
        loop = asyncio.get_running_loop()
        tokens = self.request_tokens(self._config, request)
        estimate = tokens.reservation(self._config.usd_per_million)
        dialect = self._dialect
        body = self._body(request, dialect)
        started: float | None = None
        attempt = 1
        while True:
            with lost.counted(await self._start(estimate, started)) as lease:
                if started is None:
                    started = loop.time()
                if dialect is not self._dialect:  # learnt by another request meanwhile
                    dialect = self._dialect
                    body = self._body(request, dialect)
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
            # If the server itself asked to wait for longer, that is not this row's failure.
            if (reason := self._limits.check_patience(started)) is not None:
                raise RunError(reason) from None
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
        detail = failed.detail
        if failed.verdict == "run":
            raise RunError(f"llms.{self._name}: {detail} ({self._url})")
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
        """Make one HTTP call and end the lease. None: repeat it in the dialect just learnt.

        What is raised here leaves the lease to its context manager.
        """
        try:
            reply = await self._post(lease.key_label, body)
        except Exception as error:
            failed = None if self._proxy is None else self._proxy.refusal(error, self._url)
            failed = failed or _connection_failure(error, self._config.timeout_seconds)
            if failed.code in ("unreachable", "proxy"):
                lease.release()
            else:
                lease.lose()
            return failed
        self._answered_at = asyncio.get_running_loop().time()
        outcome = self._read(reply)
        if isinstance(outcome, Response):
            self._refusals.accepted(lease.key_label)
            return self._settle(lease, request, outcome)
        if outcome.code == "malformed":
            lease.lose()  # it may have been billed
            return outcome
        if self._learn(dialect, reply):
            lease.release()
            return None
        if outcome.unless is not None:
            outcome = await self._blamed(outcome, lease, request)
        elif outcome.verdict == "row":
            self._refusals.accepted(lease.key_label)
        if outcome.verdict == "key":
            lease.retire(outcome.detail)
        if outcome.pause_seconds:
            lease.pause(outcome.pause_seconds, outcome.detail)
        lease.release()
        return outcome

    def _body(self, request: Request, dialect: Dialect) -> bytes:
        return request_body(self._config, request, dialect, self._sent.extra_body)

    async def _post(self, label: str, body: bytes) -> Reply:
        session = self._session or self._open_session()
        async with session.post(
            self._url,
            data=body,
            headers=self._sent.headers[label],
            allow_redirects=False,
            proxy=None if self._proxy is None else self._proxy.url,
        ) as reply:
            return Reply(reply.status, reply.headers, await reply.read())

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

    def _read(self, reply: Reply) -> Response | Failure:
        """What a reply means. Never raises, whatever it holds."""
        try:
            if reply.is_success:
                outcome = read_answer(reply.body, reply.charset)
            else:
                outcome = failure(reply.status, reply.headers, reply.body, reply.charset)
                if self._proxy is not None:
                    outcome = self._proxy.named_in(outcome, self._url)
        except Exception:
            # A defect of ours; it must not cost more than this try.
            if "defect" not in self._warned:
                self._warned.add("defect")
                _log.exception("llms.%s: a reply could not be read", self._name)
            detail = f"HTTP {reply.status}: the reply could not be read"
            outcome = Failure("retry", "malformed", detail)
        if isinstance(outcome, Response):
            return self._sent.hidden_in_answer(outcome)
        if outcome.code == "malformed":
            outcome = replace(outcome, raw=reply.body.decode("utf-8", "replace"))
        return outcome.told(self._sent.hidden)

    def _settle(self, lease: Lease, request: Request, response: Response) -> Response:
        if response.prompt_tokens < 0:
            text = "the server reports no usable token counts; they are estimated from lengths"
            self._warn("usage", text)
            response.prompt_tokens = text_tokens(prompt_bytes(request))
            generated = response.text + (response.thinking or "")
            response.completion_tokens = text_tokens(len(generated.encode()))
        if response.replaced_characters:
            text = "replies hold characters that no text can hold; each becomes U+FFFD"
            self._warn("characters", text)
        response.cost_usd = self._cost(response)
        lease.settle(response.prompt_tokens + response.completion_tokens, response.cost_usd)
        return response

    def _cost(self, response: Response) -> float:
        prices = self._config.usd_per_million
        if prices is None:
            return 0.0
        return prices.cost(
            response.prompt_tokens, response.completion_tokens, response.cached_prompt_tokens
        )

    async def _blamed(self, failed: Failure, lease: Lease, request: Request) -> Failure:
        """A refusal as the row's failure, or as that of what every request shares."""
        if await self._refusals.is_request_to_blame(lease, request.key()):
            return failed
        if failed.unless == "run":
            return replace(failed, verdict="run")
        return replace(failed, verdict="key", code="refused_key")

    async def _probe(self, lease: Lease) -> Probe:
        """Send a test request: does the server refuse every request, or only some rows'?"""
        self._warn(
            "probe", "a request was refused; a test request shows whether its text is the reason"
        )
        request = Request("", self._config.model, "", _TEST, Sampling(max_tokens=1))
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                body = self._body(request, self._dialect)
                reply = await self._post(lease.key_label, body)
        except Exception:
            return "unclear"
        outcome = self._read(reply)
        if isinstance(outcome, Response):
            tokens = max(0, outcome.prompt_tokens) + max(0, outcome.completion_tokens)
            lease.spend(tokens, max(0.0, self._cost(outcome)))
            return "accepted"
        if outcome.verdict == "retry":
            return "unclear"
        is_refused = outcome.unless is not None or outcome.verdict in ("key", "run")
        return "refused" if is_refused else "accepted"

    def _learn(self, used: Dialect, reply: Reply) -> bool:
        """Switch to another dialect if the server refused this one; returns whether it did."""
        better = used.after_refusal(reply.status, reply.body)
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


#: The test request, and the seconds that its reply may take.
_TEST: tuple[Message, ...] = ({"role": "user", "content": "Say OK."},)
_PROBE_SECONDS = 30.0


@dataclass(frozen=True)
class Reply:
    """An HTTP reply with its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_success(self) -> bool:
        """Whether its status is that of an answer."""
        return 200 <= self.status < 300

    @property
    def charset(self) -> str | None:
        """The charset that its Content-Type names."""
        found = _CHARSET.search(self.headers.get("Content-Type", ""))
        return found.group(1) if found else None


_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]{1,40})", re.IGNORECASE)


def _connection_failure(error: Exception, timeout: float) -> Failure:
    """The failure that an exception of the HTTP call means."""
    # Only the kind of error goes into the text: an HTTP library's message may quote the request.
    kind = type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        why = error.strerror if isinstance(error, OSError) and error.strerror else kind
        return Failure("retry", "unreachable", f"no connection: {why}")
    if isinstance(error, TimeoutError):
        return Failure("retry", "timeout", f"no reply within {timeout:g} s")
    # Also what the libraries below raise for bytes that are no HTTP.
    return Failure("retry", "connection", f"the connection broke: {kind}")
