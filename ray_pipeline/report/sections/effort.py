"""What each stage took: time, tokens and money, as bars beside their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ray_pipeline.report.drawing.charts import bar
from ray_pipeline.rundir.account import LlmUsage, StageAccount


@dataclass(frozen=True)
class EffortRow:
    """One stage's bars; each column is on a scale of its own."""

    account: StageAccount
    seconds: Markup
    #: Prompt tokens, then answer tokens; None where no stage asked a model.
    tokens: Markup | None
    #: None where nothing cost anything.
    cost: Markup | None

    @property
    def all_tokens(self) -> int:
        """Prompt and answer tokens."""
        return _tokens(self.account.llm or LlmUsage())


def effort(accounts: Sequence[StageAccount]) -> list[EffortRow]:
    """Bars of the stages that took any time or asked a model."""
    usages = [account.llm or LlmUsage() for account in accounts]
    longest = max((account.seconds for account in accounts), default=0.0)
    most_tokens = max(map(_tokens, usages), default=0)
    dearest = max((usage.cost_usd for usage in usages), default=0.0)
    rows = []
    for account, usage in zip(accounts, usages, strict=True):
        if not account.seconds and not _tokens(usage):
            continue
        prompt = ("prompt", _share(usage.prompt_tokens, most_tokens))
        answer = ("answer", _share(usage.completion_tokens, most_tokens))
        rows.append(
            EffortRow(
                account,
                bar(("plain", _share(account.seconds, longest))),
                bar(prompt, answer) if most_tokens else None,
                bar(("plain", _share(usage.cost_usd, dearest))) if dearest else None,
            )
        )
    return rows


def _tokens(usage: LlmUsage) -> int:
    return usage.prompt_tokens + usage.completion_tokens


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
