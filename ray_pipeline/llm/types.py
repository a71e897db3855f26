"""One request type and one response type, whichever engine answers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypedDict

import orjson

from ray_pipeline.core.redaction import redacted
from ray_pipeline.rundir.responses import Response


class Message(TypedDict):
    """One message of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters of an answer; all are part of a request's identity."""

    max_tokens: int = 256
    temperature: float = 0.7
    top_p: float = 1.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class AnswerFormat:
    """What a usable answer looks like: any text, one label of a list, or JSON for a schema."""

    kind: Literal["text", "label", "json"] = "text"
    labels: tuple[str, ...] = ()
    schema: dict[str, Any] | None = None


@dataclass(frozen=True)
class Request:
    """One question to one model, complete: defaults are merged before it is built.

    `key` identifies the answer on durable storage. It covers what changes the answer and nothing
    else: no API keys, URLs, time-outs or concurrency.
    """

    stage: str
    model: str
    revision: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    format: AnswerFormat = AnswerFormat()
    seed: int = 0
    #: Distinguishes several answers to the same question.
    sample: int = 0
    #: Further settings of the model that change its answers, such as ``extra_body``.
    options: Mapping[str, Any] = field(default_factory=dict)

    def key(self) -> str:
        """SHA-256 over the canonical JSON of the request (sorted keys, UTF-8), 64 hex digits."""
        return self._key({"options": self.options} if self.options else {})

    def key_without_options(self) -> str:
        """The key in runs of versions that left out `options`."""
        return self._key({})

    def _key(self, more: dict[str, Any]) -> str:
        canonical = orjson.dumps(
            {
                "stage": self.stage,
                "model": self.model,
                "revision": self.revision,
                "messages": self.messages,
                "sampling": self.sampling,
                "format": self.format,
                "seed": self.seed,
                "sample": self.sample,
                **more,
            },
            option=orjson.OPT_SORT_KEYS,
        )
        return hashlib.sha256(canonical).hexdigest()

    def sampling_seed(self) -> int:
        """A seed of 31 bits for this request's own random numbers, from its content."""
        return int(self.key_without_options()[:8], 16) & 0x7FFF_FFFF


@dataclass
class EngineError(Exception):
    """A request got no answer, even after retries.

    `code` is short and stable and ends up in the row's reason as ``llm:CODE``; `detail` is for
    people and never holds a key or a header.
    """

    code: str
    detail: str = ""
    attempts: int = 1
    #: The body of an unusable reply, as received.
    raw: str | None = field(default=None, repr=False)
    #: Tokens and dollars that tries without a reply may have cost at most.
    lost_tokens: int = 0
    lost_usd: float = 0.0

    def __post_init__(self) -> None:
        self.detail = redacted(self.detail)

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}" if self.detail else self.code


class Cancelled(asyncio.CancelledError):
    """A request was cancelled after tries that may have been billed.

    Args:
        attempts: number of tries.
        lost_tokens: tokens that they may have cost at most.
        lost_usd: dollars that they may have cost at most.
    """

    def __init__(self, attempts: int, lost_tokens: int, lost_usd: float) -> None:
        super().__init__()
        self.attempts = attempts
        self.lost_tokens = lost_tokens
        self.lost_usd = lost_usd


class Engine(Protocol):
    """What answers requests."""

    async def generate(self, request: Request) -> Response:
        """Answer one request. Many calls are in flight at once.

        Raises:
            EngineError: this request has no answer; other requests are not affected.
            BudgetExhausted: the budget does not allow it.
        """
        ...

    async def close(self) -> None:
        """Close connections."""
        ...
