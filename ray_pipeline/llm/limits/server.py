"""The server: shares the limits of one run among its clients."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ray_pipeline.llm.limits.protocol import (
    PICODOLLARS,
    SILENT_SECONDS,
    SYNC_SECONDS,
    SYNCS_PER_SECOND,
    ClientReport,
    Grants,
    KeyGrant,
    KeyLimits,
    KeyReport,
    KeyUse,
    picodollars,
)
from ray_pipeline.llm.limits.shares import Reservations, Slots, rate_of


class LimitsServer:
    """Shares the limits of one run among its clients. Not thread-safe; every call is short.

    Args:
        keys: limits of each API key, by label.
        max_cost_usd: dollars for the whole run; None: no limit.
        max_tokens: tokens for the whole run; None: no limit.
        spent_usd: cost of the responses already in the run directory's journal.
        spent_tokens: the tokens in that journal.
        clock: returns monotonic time in seconds.
    """

    def __init__(
        self,
        keys: Mapping[str, KeyLimits],
        *,
        max_cost_usd: float | None = None,
        max_tokens: int | None = None,
        spent_usd: float = 0.0,
        spent_tokens: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._keys = {label: KeyState(limits, clock()) for label, limits in keys.items()}
        max_cost = None if max_cost_usd is None else picodollars(max_cost_usd)
        self.cost = Reservations(max_cost, picodollars(spent_usd))
        self.tokens = Reservations(max_tokens, spent_tokens)
        self._clients: dict[str, _Client] = {}
        self._exhausted: str | None = None

    def sync(self, report: ClientReport) -> Grants:
        """Process a client's report and return what it may use.

        Raises:
            ValueError: the report names an unknown key.
        """
        if unknown := report.keys.keys() - self._keys.keys():
            raise ValueError(f"no limits are known for {', '.join(sorted(unknown))}")
        now = self._clock()
        client = self._clients.setdefault(report.client, _Client())
        client.last_call = now
        if client.grants is not None and report.sequence <= client.sequence:
            return client.grants  # a repeated call, because the reply was lost
        self._drop_silent(now)
        client.sequence = report.sequence
        client.report = report
        client.silent = False
        self.cost.update(report.client, report.cost, report.releases)
        self.tokens.update(report.client, report.tokens, report.releases)
        for label, key_report in report.keys.items():
            self._keys[label].update(report.client, key_report, report.releases, now)
        client.grants = self._grant(report, now)
        return client.grants

    def uses(self) -> list[KeyUse]:
        """What the requests of all clients that are alive do with each key, or wait for."""
        now = self._clock()
        self._drop_silent(now)
        clients = [client for client in self._clients.values() if not client.silent]
        reports = [(c, c.report) for c in clients if c.report is not None]
        uses = []
        for label, state in self._keys.items():
            llm, _, key = label.partition("/")
            of_key = [(c, r.keys[label]) for c, r in reports if label in r.keys]
            ages = [k.oldest_seconds + now - c.last_call for c, k in of_key if k.in_use]
            pause = max(0.0, state.paused_until - now)
            uses.append(
                KeyUse(
                    llm=llm,
                    key=key,
                    in_flight=sum(k.in_use for _, k in of_key),
                    oldest_seconds=max(ages, default=0.0),
                    tries=sum(k.tries for _, k in of_key),
                    waiting=sum(report.queued.get(llm, 0) for _, report in reports),
                    pause_seconds=pause,
                    pause_reason=state.pause_reason if pause else "",
                    retired=state.retired,
                )
            )
        return uses

    def _drop_silent(self, now: float) -> None:
        for name, client in self._clients.items():
            if not client.silent and now - client.last_call > SILENT_SECONDS:
                client.silent = True
                for key in self._keys.values():
                    key.remove(name)
                self.cost.remove(name)
                self.tokens.remove(name)

    def _grant(self, report: ClientReport, now: float) -> Grants:
        name = report.client
        keys = {
            label: self._keys[label].grant(name, key, report.sequence, now)
            for label, key in report.keys.items()
        }
        cost_ceiling = self.cost.grant(name, report.cost, report.releases)
        tokens_ceiling = self.tokens.grant(name, report.tokens, report.releases)
        self._exhausted = self._exhausted or self._why_exhausted(report)
        live = sum(not client.silent for client in self._clients.values())
        return Grants(
            sequence=report.sequence,
            keys=keys,
            cost_ceiling=cost_ceiling,
            tokens_ceiling=tokens_ceiling,
            exhausted=self._exhausted,
            hurry=any(self._keys[label].slots.must_return(name) for label in keys),
            sync_seconds=min(0.5, max(SYNC_SECONDS, live / SYNCS_PER_SECOND)),
        )

    def _why_exhausted(self, report: ClientReport) -> str | None:
        cost, tokens = report.cost, report.tokens
        if self.cost.never_fits(report.client, cost):
            limit = (self.cost.limit or 0) / PICODOLLARS
            spent = (self.cost.spent + self.cost.unknown) / PICODOLLARS
            return (
                f"the budget max_cost_usd of ${limit:.6g} is used up: ${spent:.6g} spent or "
                f"possibly billed, and one more request may cost ${cost.next / PICODOLLARS:.2g}"
            )
        if self.tokens.never_fits(report.client, tokens):
            spent_tokens = self.tokens.spent + self.tokens.unknown
            return (
                f"the budget max_tokens of {self.tokens.limit} is used up: {spent_tokens} tokens "
                f"spent or possibly billed, and one more request may take {tokens.next}"
            )
        return None


@dataclass(slots=True)
class _Client:
    last_call: float = 0.0
    sequence: int = 0
    silent: bool = False
    grants: Grants | None = None
    report: ClientReport | None = None


class KeyState:
    """One API key: its slots, its two rates, its pause."""

    def __init__(self, limits: KeyLimits, now: float) -> None:
        self.slots = Slots(limits.concurrency)
        self._requests = rate_of(limits.requests_per_minute, now)
        self._tokens = rate_of(limits.tokens_per_minute, now)
        self.paused_until = -math.inf
        self.pause_reason = ""
        self.retired: str | None = None

    def update(self, client: str, report: KeyReport, releases: bool, now: float) -> None:
        self.slots.update(client, report.in_use, report.waiting, releases)
        for sequence, (permits, tokens) in report.unused.items():
            if self._requests:
                self._requests.give_back((client, sequence), permits)
            if self._tokens:
                self._tokens.give_back((client, sequence), tokens)
        if now + report.pause_seconds > max(now, self.paused_until):
            self.paused_until = now + report.pause_seconds
            self.pause_reason = report.pause_reason
        self.retired = self.retired or report.retired

    def grant(self, client: str, report: KeyReport, sequence: int, now: float) -> KeyGrant:
        pause = max(0.0, self.paused_until - now)
        usable = pause == 0 and self.retired is None
        wishes = [
            (self._requests, report.permits if usable else 0, 1),
            (self._tokens, report.tokens if usable else 0, report.next_tokens),
        ]
        offers = [
            None if rate is None else rate.offer(client, wanted, smallest, now)
            for rate, wanted, smallest in wishes
        ]
        if 0 in offers:
            # Permits are useless without tokens and vice versa: leave both to other clients.
            offers = [None if offer is None else 0 for offer in offers]
        for (rate, _, _), offer in zip(wishes, offers, strict=True):
            if rate is not None and offer:
                rate.take((client, sequence), offer, now)
        return KeyGrant(
            slots=self.slots.grant(client, now),
            permits=offers[0],
            tokens=offers[1],
            pause_seconds=pause,
            retired=self.retired,
            pause_reason=self.pause_reason if pause else "",
        )

    def remove(self, client: str) -> None:
        self.slots.remove(client)
        for rate in (self._requests, self._tokens):
            if rate:
                rate.remove(client)
