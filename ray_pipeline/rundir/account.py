"""The account: how many rows came in, were created, kept, dropped and failed, stage by stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ray_pipeline.core.rows import DROPPED, FAILED, KEPT, reason_code

#: The counter of rows that were kept with an answer that was cut off at its limit of tokens.
CUT_ANSWERS = "rows_with_a_cut_answer"

#: The row counts of an account.
ROWS = ("rows_in", "created", "kept", "dropped", "failed")


#: Fields of `LlmUsage` that ledgers and footers have only where they say something.
_LEFT_OUT_WHERE_ZERO = (
    "unused",
    "unanswered",
    "lost_tokens",
    "lost_usd",
    "reasoning_tokens",
    "cut",
    "damaged",
)


@dataclass
class StageAccount:
    """One stage's row counts. Always, ``rows_in + created = kept + dropped + failed``."""

    name: str
    rows_in: int = 0
    created: int = 0
    kept: int = 0
    dropped: int = 0
    failed: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    #: Counters of the stage's own, for the report.
    counts: dict[str, int] = field(default_factory=dict)
    #: Seconds of work, added up over workers.
    seconds: float = 0.0
    llm: LlmUsage | None = None
    #: The same numbers of rows for each named source: ``{"corpus": {"rows_in": 9, ...}}``. Empty
    #: in a run whose source has no name.
    sources: dict[str, dict[str, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, came_in: pa.Table, out: pa.Table) -> StageAccount:
        """Count the rows that left a stage.

        Created are those whose ids did not come in: counted, not the difference of two numbers, so
        that a row that was lost, or left twice, breaks the balance.

        Args:
            name: the stage.
            came_in: all rows that it read, with their ids.
            out: all rows that left it, with their envelope.
        """
        old = pc.is_in(out["row_id"], came_in["row_id"].combine_chunks())
        status = Counter(out["status"].to_pylist())
        marked = out.filter(pc.not_equal(out["status"], KEPT))
        reasons = Counter(reason_code(reason or "?") for reason in marked["reason"].to_pylist())
        return cls(
            name=name,
            rows_in=came_in.num_rows,
            created=out.num_rows - (pc.sum(old).as_py() or 0),
            kept=status[KEPT],
            dropped=status[DROPPED],
            failed=status[FAILED],
            reasons=dict(sorted(reasons.items())),
        )

    @classmethod
    def untouched(cls, name: str, before: StageAccount) -> StageAccount:
        """The account of a stage that changed no rows: all that the stage before it kept."""
        account = cls(name, rows_in=before.kept, kept=before.kept)
        for source, rows in before.sources.items():
            same = {"rows_in": rows["kept"], "kept": rows["kept"]}
            account.sources[source] = dict.fromkeys(ROWS, 0) | same
        return account

    @property
    def balances(self) -> bool:
        """Whether every row is accounted for, in total and for each source."""
        accounts = list(self.sources.values())
        if accounts and any(self.rows[key] != sum(a[key] for a in accounts) for key in ROWS):
            return False
        return all(
            rows["rows_in"] + rows["created"] == rows["kept"] + rows["dropped"] + rows["failed"]
            for rows in (self.rows, *accounts)
        )

    @property
    def rows(self) -> dict[str, int]:
        """The row counts alone, by the names in `ROWS`."""
        return {key: getattr(self, key) for key in ROWS}

    def set_source(self, source: str) -> None:
        """Attribute all rows to one source; an empty name: the run's source has none."""
        self.sources = {source: self.rows} if source else {}

    def add(self, other: StageAccount) -> None:
        """Add the account of another unit of the same stage."""
        for name in (*ROWS, "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for source, rows in other.sources.items():
            mine = self.sources.get(source, dict.fromkeys(ROWS, 0))
            self.sources[source] = {key: mine[key] + rows[key] for key in ROWS}
        self.reasons = dict(sorted((Counter(self.reasons) + Counter(other.reasons)).items()))
        self.counts = dict(sorted((Counter(self.counts) + Counter(other.counts)).items()))
        if other.llm is not None:
            self.llm = self.llm or LlmUsage()
            self.llm.add(other.llm)

    def subtract_failed(self, rows: pa.Table) -> None:
        """Take failed rows out of the account, because they are about to enter the stage again."""
        retried = StageAccount.of(self.name, rows, rows)
        self.rows_in -= retried.failed
        self.failed -= retried.failed
        self.reasons = dict(Counter(self.reasons) - Counter(retried.reasons))

    def to_json(self) -> dict[str, Any]:
        """The account as plain data, for the ledger; without what it has none of."""
        data = asdict(self)
        if not self.sources:
            del data["sources"]
        for name in _LEFT_OUT_WHERE_ZERO:
            if data["llm"] is not None and not data["llm"][name]:
                del data["llm"][name]
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> StageAccount:
        """The inverse of `to_json`."""
        llm = data.get("llm")
        return cls(**{**data, "llm": LlmUsage(**llm) if llm else None})


def total(names: Iterable[str], units: Iterable[list[StageAccount]]) -> list[StageAccount]:
    """Accounts of the named stages, added up over units."""
    totals = {name: StageAccount(name) for name in names}
    for accounts in units:
        for account in accounts:
            totals[account.name].add(account)
    return list(totals.values())


@dataclass
class LlmUsage:
    """Requests, tokens and dollars of a stage, as its journals of responses hold them.

    ``requests + reused + unused`` is the number of requests that were ever sent for the units
    counted. The other numbers cover all of them, so that the dollars of all stages are what
    providers may have billed.
    """

    #: Requests that the committed attempts sent, answered or not. In a stage that is not finished:
    #: also all requests about units that are not committed.
    requests: int = 0
    #: Answers that were on storage already, paid for by an earlier attempt.
    reused: int = 0
    #: Tries beyond the first, of all requests.
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_prompt_tokens: int = 0
    #: Dollars of the answers.
    cost_usd: float = 0.0
    #: Requests of earlier attempts whose answer, if one came, is not used: it was asked for again,
    #: or it answers an earlier prompt or model.
    unused: int = 0
    #: Requests, of all of these, that ended without an answer.
    unanswered: int = 0
    #: Tokens and dollars that tries without a reply may have cost at most: no reply says whether
    #: they were billed. Not part of the other tokens and dollars.
    lost_tokens: int = 0
    lost_usd: float = 0.0
    #: Part of `completion_tokens` that models spent on thinking; estimated where a server does not
    #: report it.
    reasoning_tokens: int = 0
    #: Answers that ended at their limit of tokens (``finish_reason: length``).
    cut: int = 0
    #: Lines of journals that cannot be read: answers, or notes on them, whose tokens and dollars
    #: are not in the other numbers.
    damaged: int = 0

    def add(self, other: LlmUsage) -> None:
        """Add another usage to this one, in place."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))

    @property
    def sent(self) -> int:
        """All requests, whatever became of their answers."""
        return self.requests + self.reused + self.unused

    def committed(self, attempt: LlmUsage, before: LlmUsage | None) -> LlmUsage:
        """What this usage, of all responses of one unit on storage, comes to at its commit.

        Args:
            attempt: requests and reused answers of the attempt that commits the unit.
            before: the usage in the unit's last commit, where the attempt only retried rows that
                had failed: the answers of the others are still used.
        """
        sent = self.requests
        before = before or LlmUsage()
        requests = min(sent, attempt.requests + before.requests)
        # An answer that the last commit counts is not counted again because a retry read it.
        newer = max(0, sent - attempt.requests - before.sent)
        reused = min(sent - requests, before.reused + min(attempt.reused, newer))
        return replace(self, requests=requests, reused=reused, unused=sent - requests - reused)
