"""Estimates the tokens of a request before it is sent, for plans, budgets and limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from ray_pipeline.llm.limits.protocol import Estimate, picodollars
from ray_pipeline.llm.types import Request

if TYPE_CHECKING:
    from ray_pipeline.llm.config import Prices

#: Average bytes of UTF-8 per token of English text, in common byte-pair vocabularies.
BYTES_PER_TOKEN = 4
#: Tokens that servers and chat templates add around each message and the whole prompt, at most.
_TOKENS_PER_MESSAGE = 8
_TOKENS_PER_PROMPT = 16


@dataclass(frozen=True, slots=True)
class RequestTokens:
    """Tokens that a request may use."""

    #: Estimate for the prompt, if it is English text.
    prompt: int
    #: Upper bound for the prompt: a token has at least one byte.
    most_prompt: int
    #: Upper bound for the answer.
    completion: int

    def reservation(self, prices: Prices | None) -> Estimate:
        """Cost and tokens to reserve from the run's limits until the true numbers are known.

        Args:
            prices: prices of the tokens; None: they are free.
        """
        cost = prices.cost(self.most_prompt, self.completion) if prices else 0.0
        return Estimate(
            cost=picodollars(cost),
            tokens=self.most_prompt + self.completion,
            rate_tokens=self.prompt + self.completion,
        )


def request_tokens(request: Request) -> RequestTokens:
    """Estimate a request that gets one answer of at most ``max_tokens`` tokens."""
    size = prompt_bytes(request)
    overhead = _TOKENS_PER_MESSAGE * len(request.messages) + _TOKENS_PER_PROMPT
    prompt = size // BYTES_PER_TOKEN + overhead
    return RequestTokens(prompt, size + overhead, request.sampling.max_tokens)


def text_tokens(size: int) -> int:
    """Estimated number of tokens in ``size`` bytes of English text."""
    return math.ceil(size / BYTES_PER_TOKEN)


def prompt_bytes(request: Request) -> int:
    """Bytes of UTF-8 in the messages and the schema."""
    size = sum(len(message["content"].encode()) for message in request.messages)
    return size + (len(orjson.dumps(request.format.schema)) if request.format.schema else 0)
