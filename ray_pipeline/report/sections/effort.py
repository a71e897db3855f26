"""What each stage took: time, tokens and money, as bars beside their numbers and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ray_pipeline.report.accounts import LlmLine, cut_answers, damaged_lines, llm_lines
from ray_pipeline.report.drawing import meter
from ray_pipeline.report.reading import ReportReader
from ray_pipeline.report.section import Section
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


@dataclass(frozen=True)
class Effort:
    """The section."""

    rows: list[EffortRow]
    #: Stages that asked a language model.
    llms: list[LlmLine]
    #: Sentences about answers that are damaged, or that reached their limit of tokens.
    sentences: list[str]


def read(reader: ReportReader) -> Effort:
    """Read what the stages took; there may be none."""
    accounts = [entry.account for entry in reader.ledger.entries]
    entries = reader.ledger.entries
    sentences = [*damaged_lines(entries), *cut_answers(entries)]
    return Effort(_rows(accounts), reader.once(llm_lines), sentences)


def _rows(accounts: Sequence[StageAccount]) -> list[EffortRow]:
    """Bars of the stages that took any time or asked a model."""
    usages = [account.llm or LlmUsage() for account in accounts]
    longest = max((account.seconds for account in accounts), default=0.0)
    most_tokens = max(map(_tokens, usages), default=0)
    highest_cost = max((usage.cost_usd for usage in usages), default=0.0)
    rows = []
    for account, usage in zip(accounts, usages, strict=True):
        if not account.seconds and not _tokens(usage):
            continue
        prompt = ("prompt", _share(usage.prompt_tokens, most_tokens))
        answer = ("answer", _share(usage.completion_tokens, most_tokens))
        cost = ("plain", _share(usage.cost_usd, highest_cost))
        rows.append(
            EffortRow(
                account,
                meter(("plain", _share(account.seconds, longest))),
                meter(prompt, answer) if most_tokens else None,
                meter(cost) if highest_cost else None,
            )
        )
    return rows


def _tokens(usage: LlmUsage) -> int:
    return usage.prompt_tokens + usage.completion_tokens


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


SECTION = Section("effort", "Time, tokens and cost", "effort.html.j2", read)
