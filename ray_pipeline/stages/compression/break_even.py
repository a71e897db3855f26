"""How often a prompt must be used before its compression has paid for itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from ray_pipeline.core.config import Section

#: Prompts that sums are given for.
_PER = 1_000


class Prices(Section):
    """Prices of a model, in dollars per million tokens."""

    prompt: float = Field(ge=0, description="of prompts, in dollars per million tokens")
    cached_prompt: float | None = Field(
        None,
        ge=0,
        description="of prompt tokens that the provider has cached; null: it gives no rebate",
    )
    completion: float = Field(ge=0, description="of completions, in dollars per million tokens")

    @property
    def cached(self) -> float:
        """The price of cached prompt tokens."""
        return self.prompt if self.cached_prompt is None else self.cached_prompt


def break_even(
    *,
    before: Sequence[int],
    after: Sequence[int],
    repeated: Sequence[int],
    asked: Sequence[int],
    written: Sequence[int],
    prices: Prices | None,
    compressor: Prices | None,
) -> dict[str, Any]:
    """Tokens and dollars saved per thousand prompts, against what compressing them costs.

    Args:
        before: tokens of each prompt.
        after: tokens of each shorter prompt.
        repeated: tokens of each request that shortens which all requests begin with: instructions
            and examples. A provider may have them cached.
        asked: tokens of the rest of each request.
        written: tokens of each answer.
        prices: of the model whose prompts are shortened; None: only tokens are given.
        compressor: of the model that shortens; None: only tokens are given.

    Returns:
        ``saved_tokens`` a use and ``compressing_tokens``, both per thousand prompts; with prices,
        ``saved_dollars`` a use, ``compressing_dollars``, and ``uses``: the number of uses after
        which both are equal (None: never, as nothing is saved). ``…_cached`` are with cached
        prices: the repeated part of the request that shortens, and for ``saved_…`` the prompt
        itself, which a provider may have cached from one use to the next.
    """
    rows = max(1, len(before))
    scale = _PER / rows
    saved = (sum(before) - sum(after)) * scale
    shared, own, answers = (sum(each) * scale for each in (repeated, asked, written))
    found: dict[str, Any] = {
        "prompts": len(before),
        "saved_tokens": saved,
        "compressing_tokens": shared + own + answers,
        "compressing_prompt_tokens": shared + own,
        "compressing_completion_tokens": answers,
    }
    if prices is None or compressor is None:
        return found
    million = 1e6
    saving = saved * prices.prompt / million
    saving_cached = saved * prices.cached / million
    cost = ((shared + own) * compressor.prompt + answers * compressor.completion) / million
    cost_cached = (
        shared * compressor.cached + own * compressor.prompt + answers * compressor.completion
    ) / million
    return found | {
        "saved_dollars": saving,
        "saved_dollars_cached": saving_cached,
        "compressing_dollars": cost,
        "compressing_dollars_cached": cost_cached,
        "uses": _uses(cost, saving),
        "uses_cached": _uses(cost_cached, saving_cached),
    }


def _uses(cost: float, saving: float) -> int | None:
    if cost == 0:
        return 0
    return math.ceil(cost / saving) if saving > 0 else None
