"""Limits that hold for the whole cluster: concurrency, rates, pauses, money and tokens.

Two halves, both plain Python. One `LimitsServer` for a run knows what may be used; one
`LimitsClient` in each worker process takes a share of it and hands it out to the requests of its
engines. They meet in one call, `LimitsServer.sync`, made a few times a second and never once a
request: a client asks for what it could use soon and gets a lease on it.

How each limit holds although clients act on their own between two syncs:

- *Slots* (concurrency of an API key) are leased. The server counts a client's old share as taken
  until the client has confirmed the smaller one. A client that is not heard of for
  `SILENT_SECONDS` loses its slots; it stops by itself a second before that.
- *Rates* (requests and tokens a minute) are granted as permits that are worth nothing
  `PERMIT_SECONDS` after they were asked for. The server never grants more than the limit in any
  `WINDOW_SECONDS`, which is a minute plus a permit's life plus a margin for the network, so no 60
  seconds see more starts than the limit. Permits that were not used are handed back.
- *Money and tokens of the run* are reserved before a request starts, at the most it can cost. A
  client may spend up to a ceiling, and all clients' ceilings together stay within the budget.
  What a killed client had reserved stays reserved for the rest of the run, because its requests
  may have been billed; the next start counts again from the journal of responses.

Money is counted in whole picodollars (1e-12 USD), so that sums are exact.

Known holes: a server that is started again has forgotten the last minute's starts; a model server
that bills more than it was asked for (ignores ``max_tokens``) can pass the budget by that much.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field

from ray_pipeline.config import Budget
from ray_pipeline.errors import BudgetExhausted, RunError
from ray_pipeline.llm.config import LlmConfig

#: Life of a request permit, from the moment a client asked for it.
PERMIT_SECONDS = 1.0
#: A minute, plus a permit's life, plus a second for what the network does to arrival times.
WINDOW_SECONDS = 60.0 + PERMIT_SECONDS + 1.0
#: Time between two syncs of a client that waits for something, and of one that does not.
SYNC_SECONDS = 0.1
HEARTBEAT_SECONDS = 0.25
#: A client without requests gives everything back after this long, and then keeps quiet.
IDLE_SECONDS = 1.0
#: A client not heard of for this long is taken for dead.
SILENT_SECONDS = 5.0
#: What a client may use without having reached the server; below `SILENT_SECONDS`.
LEASE_SECONDS = 4.0
#: How long a client goes on trying to reach the server before the run fails.
UNREACHABLE_SECONDS = 60.0
_CALL_SECONDS = 10.0
#: When there are fewer slots than clients, the slots go round this often.
_TURN_SECONDS = 2.0
#: The server can take about this many syncs a second.
_SYNCS_PER_SECOND = 250
_PICODOLLARS = 10**12

_log = logging.getLogger(__name__)


def picodollars(usd: float) -> int:
    """Whole picodollars, rounded up."""
    return math.ceil(usd * _PICODOLLARS - 1e-3)


# --------------------------------------------------------------------------- what is limited


@dataclass(frozen=True)
class KeyLimits:
    """Limits of one API key, for the whole cluster. None is no limit."""

    concurrency: int
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


def key_labels(llm: str, config: LlmConfig) -> dict[str, str | None]:
    """Labels of a model's keys, as ``LLM/VARIABLE``, and the environment variable of each.

    A server without keys, and a local model, have one label without a variable.
    """
    if config.engine != "openai":
        return {f"{llm}/local": None}
    if not config.api_keys_env:
        return {f"{llm}/no-key": None}
    return {f"{llm}/{variable}": variable for variable in config.api_keys_env}


def key_limits(config: LlmConfig) -> KeyLimits:
    """Limits of each key of a model. A local model's concurrency is its engine's business."""
    if config.engine != "openai":
        return KeyLimits(concurrency=1_000_000)
    return KeyLimits(config.concurrency, config.requests_per_minute, config.tokens_per_minute)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one try of a request may use, before it is known."""

    #: The most it can cost, in picodollars.
    cost: int = 0
    #: The most tokens it can use, prompt and completion.
    tokens: int = 0
    #: Tokens to count against the tokens per minute until the true number is known.
    rate_tokens: int = 0


# --------------------------------------------------------------------------- what is exchanged


@dataclass(slots=True)
class KeyReport:
    """What a client has and wants of one key."""

    in_use: int
    #: Requests that wait for a slot.
    waiting: int
    #: Request starts, and tokens, that it could use within a permit's life.
    permits: int
    tokens: int
    #: Tokens of the request that is next in line.
    next_tokens: int
    #: Permits and tokens of earlier grants that were not used, by the grant's sequence number.
    unused: dict[int, tuple[int, int]] = field(default_factory=dict)
    #: A server asked to be left alone for this long from now.
    pause_seconds: float = 0.0
    #: Why the key is of no more use.
    retired: str | None = None


@dataclass(slots=True)
class BudgetReport:
    """A client's money (picodollars) or tokens. ``spent`` and ``lost`` count since its start."""

    spent: int = 0
    #: Reserved for requests whose reply never came: they may have been billed.
    lost: int = 0
    #: Reserved for the requests in flight.
    in_use: int = 0
    #: What it would reserve soon, and what the smallest request next in line needs (0: none).
    wanted: int = 0
    next: int = 0


@dataclass(slots=True)
class ClientReport:
    """A client's side of a sync. Sending the same report again is harmless."""

    client: str
    sequence: int
    keys: dict[str, KeyReport]
    cost: BudgetReport
    tokens: BudgetReport
    #: The client has dropped all its leases; what is in flight it keeps.
    releases: bool = False


@dataclass(slots=True)
class KeyGrant:
    """What a client may use of one key."""

    #: Requests it may have in flight.
    slots: int
    #: Starts and tokens, in place of what is left of the last grant; None: not limited.
    permits: int | None
    tokens: int | None
    pause_seconds: float
    retired: str | None


@dataclass(slots=True)
class Grants:
    """The server's side of a sync."""

    sequence: int
    keys: dict[str, KeyGrant]
    #: How far the client's spent, lost and reserved together may go; None: not limited.
    cost_ceiling: int | None
    tokens_ceiling: int | None
    #: Why nothing more may start in this run.
    exhausted: str | None
    #: The client was asked to give something up that another one waits for.
    hurry: bool
    #: Seconds to leave between two syncs, at least.
    sync_seconds: float


@dataclass(frozen=True)
class Totals:
    """The state of a run's limits, for progress and the ledger."""

    spent_usd: float
    spent_tokens: int
    #: Reserved for requests in flight or about to start.
    reserved_usd: float
    reserved_tokens: int
    #: Reserved for requests whose reply never came (time-outs, cut connections, killed workers).
    #: They may have been billed, count against the budget, and are in no journal.
    unknown_usd: float
    unknown_tokens: int
    clients: int
    in_flight: int
    #: Seconds that each paused key still has to wait, and why each retired key is of no use.
    paused: dict[str, float]
    retired: dict[str, str]
    exhausted: str | None


# --------------------------------------------------------------------------- the server


class LimitsServer:
    """Shares the limits of one run among its clients. Not thread-safe; every call is short.

    Args:
        llms: models by name, with the limits of their keys.
        budget: money and tokens of the whole run.
        spent_usd: what the run directory's journal of responses has already cost.
        spent_tokens: the tokens in that journal.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        llms: Mapping[str, LlmConfig],
        budget: Budget,
        spent_usd: float = 0.0,
        spent_tokens: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._keys = {
            label: _KeyState(key_limits(config), clock())
            for name, config in llms.items()
            for label in key_labels(name, config)
        }
        max_cost = None if budget.max_cost_usd is None else picodollars(budget.max_cost_usd)
        self._cost = _Budget(max_cost, picodollars(spent_usd))
        self._tokens = _Budget(budget.max_tokens, spent_tokens)
        self._clients: dict[str, _Client] = {}
        self._exhausted: str | None = None

    def sync(self, report: ClientReport) -> Grants:
        """Take in what a client did and wants, and tell it what it may use.

        Raises:
            ValueError: the report names a key that the limits do not have.
        """
        if unknown := report.keys.keys() - self._keys.keys():
            raise ValueError(f"no limits are known for {', '.join(sorted(unknown))}")
        now = self._clock()
        client = self._clients.setdefault(report.client, _Client())
        client.heard = now
        if client.grants is not None and report.sequence <= client.sequence:
            return client.grants  # a repeated call: its reply was lost
        self._forget_silent(now)
        client.sequence = report.sequence
        client.silent = False
        self._cost.hear(report.client, report.cost, report.releases)
        self._tokens.hear(report.client, report.tokens, report.releases)
        for label, key_report in report.keys.items():
            self._keys[label].hear(report.client, key_report, report.releases, now)
        client.grants = self._grant(report, now)
        return client.grants

    def totals(self) -> Totals:
        """What is spent, reserved, paused, retired."""
        now = self._clock()
        self._forget_silent(now)
        cost, tokens, keys = self._cost, self._tokens, self._keys
        return Totals(
            spent_usd=cost.spent / _PICODOLLARS,
            spent_tokens=tokens.spent,
            reserved_usd=cost.reserved() / _PICODOLLARS,
            reserved_tokens=tokens.reserved(),
            unknown_usd=cost.unknown() / _PICODOLLARS,
            unknown_tokens=tokens.unknown(),
            clients=sum(not client.silent for client in self._clients.values()),
            in_flight=sum(key.slots.in_use() for key in keys.values()),
            paused={n: k.paused_until - now for n, k in keys.items() if k.paused_until > now},
            retired={n: k.retired for n, k in keys.items() if k.retired},
            exhausted=self._exhausted,
        )

    def _forget_silent(self, now: float) -> None:
        for name, client in self._clients.items():
            if not client.silent and now - client.heard > SILENT_SECONDS:
                client.silent = True
                for key in self._keys.values():
                    key.forget(name)
                self._cost.forget(name)
                self._tokens.forget(name)

    def _grant(self, report: ClientReport, now: float) -> Grants:
        name = report.client
        keys = {
            label: self._keys[label].grant(name, key, report.sequence, now)
            for label, key in report.keys.items()
        }
        cost_ceiling = self._cost.grant(name, report.cost, report.releases)
        tokens_ceiling = self._tokens.grant(name, report.tokens, report.releases)
        self._exhausted = self._exhausted or self._why_exhausted(report)
        live = sum(not client.silent for client in self._clients.values())
        return Grants(
            sequence=report.sequence,
            keys=keys,
            cost_ceiling=cost_ceiling,
            tokens_ceiling=tokens_ceiling,
            exhausted=self._exhausted,
            hurry=any(self._keys[label].slots.must_return(name) for label in keys),
            sync_seconds=min(0.5, max(SYNC_SECONDS, live / _SYNCS_PER_SECOND)),
        )

    def _why_exhausted(self, report: ClientReport) -> str | None:
        cost, tokens = report.cost, report.tokens
        if self._cost.never_fits(report.client, cost):
            limit = (self._cost.limit or 0) / _PICODOLLARS
            spent = (self._cost.spent + self._cost.unknown()) / _PICODOLLARS
            return (
                f"the budget max_cost_usd of ${limit:.6g} is used up: ${spent:.6g} spent or "
                f"possibly billed, and one more request may cost ${cost.next / _PICODOLLARS:.2g}"
            )
        if self._tokens.never_fits(report.client, tokens):
            spent_tokens = self._tokens.spent + self._tokens.unknown()
            return (
                f"the budget max_tokens of {self._tokens.limit} is used up: {spent_tokens} tokens "
                f"spent or possibly billed, and one more request may take {tokens.next}"
            )
        return None


@dataclass(slots=True)
class _Client:
    heard: float = 0.0
    sequence: int = 0
    silent: bool = False
    grants: Grants | None = None


class _KeyState:
    """One API key: its slots, its two rates, its pause."""

    def __init__(self, limits: KeyLimits, now: float) -> None:
        self.slots = _Slots(limits.concurrency)
        self._requests = _rate(limits.requests_per_minute, now)
        self._tokens = _rate(limits.tokens_per_minute, now)
        self.paused_until = -math.inf
        self.retired: str | None = None

    def hear(self, client: str, report: KeyReport, releases: bool, now: float) -> None:
        self.slots.hear(client, report.in_use, report.waiting, releases)
        for sequence, (permits, tokens) in report.unused.items():
            if self._requests:
                self._requests.give_back((client, sequence), permits)
            if self._tokens:
                self._tokens.give_back((client, sequence), tokens)
        if report.pause_seconds > 0:
            self.paused_until = max(self.paused_until, now + report.pause_seconds)
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
            # Starts without tokens, or tokens without starts, would only keep others from both.
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
        )

    def forget(self, client: str) -> None:
        self.slots.forget(client)
        for rate in (self._requests, self._tokens):
            if rate:
                rate.forget(client)


@dataclass(slots=True)
class _SlotLease:
    #: What the client was last told.
    told: int = 0
    #: The most it can have in flight, until it confirms a smaller number.
    held: int = 0
    in_use: int = 0
    wanted: int = 0


class _Slots:
    """Requests in flight with one key, shared among clients by need.

    None gets more than it can use while another one goes short; what nobody needs is spread evenly.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._leases: dict[str, _SlotLease] = {}

    def hear(self, client: str, in_use: int, waiting: int, releases: bool) -> None:
        lease = self._leases.setdefault(client, _SlotLease())
        # The client has applied what it was last told before it wrote this report.
        lease.held = in_use if releases else max(lease.told, in_use)
        lease.in_use, lease.wanted = in_use, in_use + waiting
        if releases and lease.wanted == 0:
            del self._leases[client]

    def grant(self, client: str, now: float) -> int:
        lease = self._leases.get(client)
        if lease is None:
            return 0
        share = self._fair_shares(now)[client]
        others = sum(other.held for name, other in self._leases.items() if name != client)
        lease.told = min(share, max(0, self._total - others))
        lease.held = max(lease.held, lease.told)
        return lease.told

    def must_return(self, client: str) -> bool:
        """Whether the client holds more than it was told to, and another one waits for it."""
        lease = self._leases.get(client)
        if lease is None or lease.told >= lease.held:
            return False
        return any(other.wanted > other.held for other in self._leases.values())

    def in_use(self) -> int:
        return sum(lease.in_use for lease in self._leases.values())

    def forget(self, client: str) -> None:
        self._leases.pop(client, None)

    def _fair_shares(self, now: float) -> dict[str, int]:
        names = sorted(self._leases)
        wanting = [name for name in names if self._leases[name].wanted > 0]
        shares = dict.fromkeys(names, 0)
        if self._total < len(wanting):
            # Not one for each: they take turns, or those left out would wait for ever.
            turn = int(now / _TURN_SECONDS)
            for i in range(self._total):
                shares[wanting[(turn + i) % len(wanting)]] = 1
            return shares
        left = self._total
        by_need = sorted(names, key=lambda name: self._leases[name].wanted)
        for i, name in enumerate(by_need):
            shares[name] = min(self._leases[name].wanted, left // (len(names) - i))
            left -= shares[name]
        for i, name in enumerate(names):
            shares[name] += left // len(names) + (i < left % len(names))
        return shares


def _rate(per_minute: int | None, now: float) -> _Rate | None:
    return None if per_minute is None else _Rate(per_minute, now)


#: A grant of permits: the client and the number of the report it answers.
_BatchId = tuple[str, int]


class _Rate:
    """Requests or tokens a minute. Never grants more than the limit in any `WINDOW_SECONDS`.

    Within that, a bucket that fills at the limit's pace spreads the starts over the minute. It
    may be overdrawn by the last request, so that one larger than the bucket can start at all.
    """

    def __init__(self, limit: int, now: float) -> None:
        self._limit = limit
        self._pace = limit / WINDOW_SECONDS
        self._depth = max(1.0, 2.0 * self._pace)
        self._level = self._depth
        self._filled = now
        self._granted: dict[_BatchId, tuple[float, int]] = {}  # oldest first
        self._in_window = 0
        self._demands: dict[str, int] = {}
        self._served: dict[str, float] = {}

    def offer(self, client: str, wanted: int, smallest: int, now: float) -> int:
        """Permits for a client that wants ``wanted``, and can do nothing with ``smallest - 1``."""
        self._pass_time(now)
        # A request larger than the whole limit starts when it has the window for itself.
        smallest = min(max(1, smallest), self._limit)
        wanted = min(max(wanted, smallest), self._limit) if wanted > 0 else 0
        self._demands[client] = wanted
        room = self._limit - self._in_window
        if wanted == 0 or self._level <= 0 or room < smallest:
            return 0
        level = min(self._level, room)
        fair = int(level * wanted / sum(self._demands.values()))
        if fair >= smallest:
            return min(wanted, fair)
        # Not enough for everybody: who was served longest ago comes first.
        waiting = (name for name, demand in self._demands.items() if demand > 0)
        if client != min(waiting, key=lambda name: (self._served.get(name, -math.inf), name)):
            return 0
        return smallest

    def take(self, batch: _BatchId, amount: int, now: float) -> None:
        """Grant what was offered."""
        self._granted[batch] = (now, amount)
        self._in_window += amount
        self._level -= amount
        self._served[batch[0]] = now

    def give_back(self, batch: _BatchId, amount: int) -> None:
        """Permits of a grant were not used; a negative amount: more was used than granted."""
        found = self._granted.get(batch)
        if found is None or amount == 0:
            return  # already out of the window
        granted_at, granted = found
        amount = min(amount, granted)
        self._granted[batch] = (granted_at, granted - amount)
        self._in_window -= amount
        self._level = min(self._depth, self._level + amount)

    def forget(self, client: str) -> None:
        self._demands.pop(client, None)

    def _pass_time(self, now: float) -> None:
        self._level = min(self._depth, self._level + (now - self._filled) * self._pace)
        self._filled = now
        while self._granted:
            batch, (granted_at, amount) = next(iter(self._granted.items()))
            if granted_at > now - WINDOW_SECONDS:
                return
            del self._granted[batch]
            self._in_window -= amount


@dataclass(slots=True)
class _Account:
    """One client's part of a budget. All amounts count from the client's start."""

    #: What it had spent when this server first heard of it: the journal has it already.
    before: int = 0
    spent: int = 0
    lost: int = 0
    in_use: int = 0
    #: The ceiling it was last told, and the highest one it may still go by.
    told: int = 0
    ceiling: int = 0
    #: It waits, and its next request did not fit.
    short: bool = False
    silent: bool = False

    def used(self) -> int:
        return self.spent + self.lost


class _Budget:
    """Money or tokens of the run. ``spent at start + all clients' ceilings <= limit``, always."""

    def __init__(self, limit: int | None, spent: int) -> None:
        self.limit = limit
        self._spent_before = spent
        self._accounts: dict[str, _Account] = {}

    @property
    def spent(self) -> int:
        return self._spent_before + sum(a.spent - a.before for a in self._accounts.values())

    def unknown(self) -> int:
        """What requests without a reply, and killed clients, may have cost."""
        accounts = self._accounts.values()
        return sum(a.ceiling - a.spent if a.silent else a.lost for a in accounts)

    def reserved(self) -> int:
        accounts = self._accounts.values()
        return sum(a.in_use for a in accounts if not a.silent)

    def hear(self, client: str, report: BudgetReport, releases: bool) -> None:
        account = self._accounts.get(client)
        if account is None:
            account = self._accounts[client] = _Account(before=report.spent)
        account.silent = False
        account.spent, account.lost, account.in_use = report.spent, report.lost, report.in_use
        committed = account.used() + account.in_use
        account.ceiling = committed if releases else max(account.told, committed)

    def grant(self, client: str, report: BudgetReport, releases: bool) -> int | None:
        """The client's new ceiling.

        It never gets a part that is too small for its next request: several clients with such
        parts would all wait for one another.
        """
        if self.limit is None:
            return None
        account = self._accounts[client]
        committed = account.used() + account.in_use
        room = self.limit - self._committed() + account.ceiling
        others_short = any(a.short for name, a in self._accounts.items() if name != client)
        wanted = report.next if others_short else max(report.next, report.wanted)
        ceiling = min(committed + (0 if releases else wanted), room)
        account.short = report.next > 0 and ceiling - committed < report.next
        account.told = committed if account.short else max(committed, ceiling)
        account.ceiling = max(account.ceiling, account.told)
        return account.told

    def never_fits(self, client: str, report: BudgetReport) -> bool:
        """Whether nothing is in flight anywhere and the client's next request is still too much."""
        if self.limit is None or report.next == 0 or report.in_use > 0:
            return False
        others = (a for name, a in self._accounts.items() if name != client and not a.silent)
        if any(a.ceiling > a.used() for a in others):
            return False
        account = self._accounts[client]
        return self._committed() - account.ceiling + account.used() + report.next > self.limit

    def forget(self, client: str) -> None:
        """A client is gone: its ceiling stays taken, nobody knows what was billed below it."""
        if account := self._accounts.get(client):
            account.silent, account.short = True, False

    def _committed(self) -> int:
        return self._spent_before + sum(a.ceiling - a.before for a in self._accounts.values())


# --------------------------------------------------------------------------- the client


class LimitsClient:
    """One worker process's share of the limits. Lives on one event loop.

    Args:
        name: tells the clients of a run apart, in the server's messages; made unique here.
        call: reaches `LimitsServer.sync`, wherever it is.
    """

    def __init__(self, name: str, call: Callable[[ClientReport], Awaitable[Grants]]) -> None:
        self._call = call
        # Process numbers come again, on other machines and after restarts.
        self._name = f"{name}-{uuid.uuid4().hex[:12]}"
        self._llms: dict[str, LlmLimits] = {}
        self._sequence = 0
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._synced_at = -math.inf
        self._sync_seconds = SYNC_SECONDS
        self._hurry = False
        self._quiet = True
        #: Waits for longer than it would if a request needed the next sync.
        self._sleeps = False
        self.cost = _Meter()
        self.tokens = _Meter()
        self.valid_until = -math.inf
        #: Makes the error that every request gets from now on.
        self.failure: Callable[[], Exception] | None = None

    def llm(self, name: str, config: LlmConfig) -> LlmLimits:
        """The share of one model; the same object for the same name."""
        if name not in self._llms:
            self._llms[name] = LlmLimits(self, name, config)
        return self._llms[name]

    async def close(self) -> None:
        """Tell the server what was spent and hand everything back. Nothing can start after."""
        if self._task is None:
            return
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._task = None
        with contextlib.suppress(Exception):  # it is told by our silence otherwise
            async with asyncio.timeout(_CALL_SECONDS):
                await self._call(self._report(releases=True))

    def __repr__(self) -> str:
        return f"LimitsClient({self._name!r}, llms={sorted(self._llms)})"

    # What requests do to it

    def need(self) -> None:
        """A request waits: see whether a sync would help it."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="limits")
            self._task.add_done_callback(self._ended)
        if self._sleeps and (self._quiet or any(llm.sync_helps() for llm in self._llms.values())):
            self._sleeps = False
            self._wake.set()

    def news(self) -> None:
        """Something that other clients should know soon: a pause, a key of no more use."""
        self._hurry = True
        self._sleeps = False
        self._wake.set()

    def freed(self, llm: LlmLimits) -> None:
        """A request has ended: who can start now?"""
        if self.cost.ceiling is None and self.tokens.ceiling is None:
            llm.pump()
        else:
            self.pump()

    def pump(self) -> None:
        """Start what can start."""
        for llm in self._llms.values():
            llm.pump()

    # The sync

    async def _run(self) -> None:
        unreached_since: float | None = None
        report: ClientReport | None = None
        loop = asyncio.get_running_loop()
        while True:
            if report is None:
                await self._due()
                report = self._report(releases=not self._active())
            sent = loop.time()
            try:
                async with asyncio.timeout(_CALL_SECONDS):
                    grants = await self._call(report)
            except Exception as error:
                # The same report again: the server knows it by its number if it had arrived.
                unreached_since = unreached_since or sent
                if loop.time() - unreached_since > UNREACHABLE_SECONDS:
                    self._fail_unreachable(error)
                    return
                await asyncio.sleep(0.5)
                continue
            unreached_since = None
            self._apply(report, grants, sent)
            report = None
            self.pump()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Without syncs every request would wait for ever: a defect here must not go unseen."""
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the limits' sync failed", exc_info=error)
            reason = f"{type(error).__name__}: {error}"
            self.failure = lambda: RunError(f"the run's limits failed ({reason})")
            self.pump()

    def _fail_unreachable(self, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        self.failure = lambda: RunError(
            f"the run's limits could not be reached for {UNREACHABLE_SECONDS:.0f} s ({reason}); "
            "no request may start without them"
        )
        self.pump()

    async def _due(self) -> None:
        """Wait until the next sync is worth its call."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            self._sleeps = True
            if (delay := self._next_sync() - loop.time()) <= 0:
                self._sleeps = False
                return
            # Not `wait_for`: in Python 3.11 it can swallow a cancellation that meets a wake-up.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if delay == math.inf else delay):
                    await self._wake.wait()

    def _next_sync(self) -> float:
        if self._hurry or (self._quiet and self._active()):
            self._sleeps = False
            return self._synced_at + SYNC_SECONDS / 4
        if any(llm.sync_helps() for llm in self._llms.values()):
            self._sleeps = False
            # Clients that were started together should not stay in step.
            return self._synced_at + self._sync_seconds * random.uniform(0.8, 1.2)
        if self._active():
            return self._synced_at + max(HEARTBEAT_SECONDS, self._sync_seconds)
        return math.inf if self._quiet else self._synced_at + IDLE_SECONDS

    def _active(self) -> bool:
        return any(llm.active() for llm in self._llms.values())

    def _report(self, releases: bool) -> ClientReport:
        self._sequence += 1
        self._hurry = False
        self._quiet = releases
        if releases:
            self._drop_leases()
        llms = self._llms.values()
        return ClientReport(
            client=self._name,
            sequence=self._sequence,
            keys={key.label: report for llm in llms for key, report in llm.reports()},
            cost=self._budget_report(self.cost, lambda e: e.cost),
            tokens=self._budget_report(self.tokens, lambda e: e.tokens),
            releases=releases,
        )

    def _drop_leases(self) -> None:
        self.valid_until = -math.inf
        for llm in self._llms.values():
            for key in llm.keys:
                key.slots = 0

    def _budget_report(self, meter: _Meter, amount: Callable[[Estimate], int]) -> BudgetReport:
        heads = [amount(head) for llm in self._llms.values() if (head := llm.head())]
        waiting = sum(
            amount(estimate) for llm in self._llms.values() for estimate in llm.startable()
        )
        return BudgetReport(
            spent=meter.spent,
            lost=meter.lost,
            in_use=meter.in_use,
            # As much again as is in flight: until the next sync each may be followed by another.
            wanted=max(waiting, meter.in_use),
            next=min(heads, default=0),
        )

    def _apply(self, report: ClientReport, grants: Grants, sent: float) -> None:
        loop = asyncio.get_running_loop()
        self._synced_at = loop.time()
        self._sync_seconds = grants.sync_seconds
        self._hurry = self._hurry or grants.hurry
        self.cost.ceiling, self.tokens.ceiling = grants.cost_ceiling, grants.tokens_ceiling
        if not report.releases:
            self.valid_until = sent + LEASE_SECONDS
        for llm in self._llms.values():
            for key in llm.keys:
                if grant := grants.keys.get(key.label):
                    key.apply(grant, grants.sequence, sent, loop)
            llm.check_keys()
        if grants.exhausted:
            message = grants.exhausted
            self.failure = lambda: BudgetExhausted(message)


class _Meter:
    """Money or tokens of this client. None as ceiling: no limit (known from the first sync)."""

    __slots__ = ("ceiling", "in_use", "lost", "spent")

    def __init__(self) -> None:
        self.spent = 0
        self.lost = 0
        self.in_use = 0
        self.ceiling: int | None = 0

    def fits(self, amount: int) -> bool:
        ceiling = self.ceiling
        return ceiling is None or self.spent + self.lost + self.in_use + amount <= ceiling


class _Key:
    """One API key as this client sees it."""

    def __init__(self, label: str, limits: KeyLimits) -> None:
        self.label = label
        self.limits = limits
        self.rated = bool(limits.requests_per_minute or limits.tokens_per_minute)
        self.slots = 0
        self.in_use = 0
        self.started = 0  # since the last sync
        self.paused_until = -math.inf
        self.retired: str | None = None
        self.batch = _Batch(0, 0, 0, -math.inf)
        self._unused: dict[int, tuple[int, int]] = {}
        self._pause_told = -math.inf

    def can_start(self, estimate: Estimate, now: float) -> bool:
        if self.in_use >= self.slots or self.paused_until > now or self.retired is not None:
            return False
        return not self.rated or self.batch.has(self.rate_tokens(estimate), now)

    def rate_tokens(self, estimate: Estimate) -> int:
        """Tokens to count for a request; one larger than the limit counts as the limit."""
        limit = self.limits.tokens_per_minute
        return 0 if limit is None else min(estimate.rate_tokens, limit)

    def unused(self, batch: _Batch, permits: int, tokens: int) -> None:
        old = self._unused.get(batch.sequence, (0, 0))
        self._unused[batch.sequence] = (old[0] + permits, old[1] + tokens)

    def report(self, waiting: int, head: Estimate | None, now: float) -> KeyReport:
        """State, and what could be used of ``waiting`` requests; ends the count of starts."""
        room = self.slots - self.in_use if self.slots else waiting
        permits = max(0, min(waiting, room)) + self.started
        next_tokens = self.rate_tokens(head) if head else 0
        pause = self.paused_until - now if self.paused_until > self._pause_told else 0.0
        self._pause_told = max(self._pause_told, self.paused_until)
        unused, self._unused, self.started = self._unused, {}, 0
        return KeyReport(
            in_use=self.in_use,
            waiting=waiting,
            permits=permits if self.rated else 0,
            tokens=permits * next_tokens,
            next_tokens=next_tokens,
            unused=unused,
            pause_seconds=max(0.0, pause),
            retired=self.retired,
        )

    def apply(
        self, grant: KeyGrant, sequence: int, sent: float, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.slots = grant.slots
        self.retired = self.retired or grant.retired
        if grant.pause_seconds > 0:
            until = loop.time() + grant.pause_seconds
            self._pause_told = max(self._pause_told, until)
            self.paused_until = max(self.paused_until, until)
        if self.rated:
            left = self.batch
            if left.permits or left.tokens:
                self.unused(left, left.permits, left.tokens)
            unlimited = 1 << 62
            self.batch = _Batch(
                sequence,
                unlimited if grant.permits is None else grant.permits,
                unlimited if grant.tokens is None else grant.tokens,
                sent + PERMIT_SECONDS,
            )


@dataclass(slots=True)
class _Batch:
    """Permits of one grant."""

    sequence: int
    permits: int
    tokens: int
    expires: float

    def has(self, tokens: int, now: float) -> bool:
        return self.permits > 0 and self.tokens >= tokens and now < self.expires


class LlmLimits:
    """The share of one model: hands out leases on its keys, first come, first served."""

    def __init__(self, client: LimitsClient, name: str, config: LlmConfig) -> None:
        self._client = client
        self._name = name
        self._variables = key_labels(name, config)
        self.keys = [_Key(label, key_limits(config)) for label in self._variables]
        self._queue: deque[tuple[Estimate, asyncio.Future[Lease]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._no_keys: str | None = None

    async def start(self, estimate: Estimate, again: bool = False) -> Lease:
        """Wait until one try of a request may start.

        Args:
            estimate: what it may use.
            again: a further try of a request; goes before those that were not tried yet.

        Raises:
            BudgetExhausted: the budget does not allow it, and nothing in flight can change that.
            RunError: no key is usable, or the limits cannot be reached.
        """
        if not self._queue or again:
            lease = self._take(estimate)
            if lease is not None:
                return lease
        future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        entry = (estimate, future)
        if again:
            self._queue.appendleft(entry)
        else:
            self._queue.append(entry)
        self._client.need()
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().release()
            raise

    def _take(self, estimate: Estimate) -> Lease | None:
        """A lease if one can be had at once.

        Raises: as `start`.
        """
        client = self._client
        if client.failure is not None:
            raise client.failure()
        if self._no_keys is not None:
            raise RunError(self._no_keys)
        now = asyncio.get_running_loop().time()
        if now >= client.valid_until:
            return None
        if not (client.cost.fits(estimate.cost) and client.tokens.fits(estimate.tokens)):
            return None
        key = self._pick(estimate, now)
        if key is None:
            return None
        client.cost.in_use += estimate.cost
        client.tokens.in_use += estimate.tokens
        return Lease(client, self, key, estimate)

    def _pick(self, estimate: Estimate, now: float) -> _Key | None:
        """The usable key with the most room."""
        if len(self.keys) == 1:
            return self.keys[0] if self.keys[0].can_start(estimate, now) else None
        usable = [key for key in self.keys if key.can_start(estimate, now)]
        return max(usable, key=_room, default=None)

    def pump(self) -> None:
        """Start those in line, as far as the leases go."""
        queue = self._queue
        while queue:
            if not self._stopped() and all(0 < key.slots <= key.in_use for key in self.keys):
                return  # the usual end: all slots are at work, and a sync would change nothing
            estimate, future = queue[0]
            if not future.done():
                try:
                    lease = self._take(estimate)
                except Exception as error:
                    future.set_exception(error)
                else:
                    if lease is None:
                        self._client.need()
                        return
                    future.set_result(lease)
            queue.popleft()

    def _stopped(self) -> bool:
        return self._client.failure is not None or self._no_keys is not None

    # What the client asks

    def active(self) -> bool:
        return bool(self._queue) or any(key.in_use for key in self.keys)

    def sync_helps(self) -> bool:
        """Whether something waits that the next sync might let go."""
        if not self._queue:
            return False
        now = asyncio.get_running_loop().time()
        if now >= self._client.valid_until:
            return True
        usable = [key for key in self.keys if key.paused_until <= now and key.retired is None]
        # All slots at work: the next start needs no sync. A free one: it lacks something else.
        return any(key.slots == 0 or key.in_use < key.slots for key in usable)

    def head(self) -> Estimate | None:
        """What the next request in line needs."""
        return next((estimate for estimate, future in self._queue if not future.done()), None)

    def startable(self) -> Iterator[Estimate]:
        """The requests in line that could start soon, as far as the slots go."""
        number = max(32, sum(key.slots for key in self.keys))
        for _, (estimate, _future) in zip(range(number), self._queue, strict=False):
            yield estimate

    def reports(self) -> Iterator[tuple[_Key, KeyReport]]:
        now = asyncio.get_running_loop().time()
        usable = [key for key in self.keys if key.paused_until <= now and key.retired is None]
        part = math.ceil(len(self._queue) / max(1, len(usable)))
        head = self.head()
        for key in self.keys:
            yield key, key.report(part if key in usable else 0, head, now)

    def check_keys(self) -> None:
        """Give up when no key is left; see that the end of a pause is not slept through."""
        if all(key.retired is not None for key in self.keys):
            reasons = (f"{self._variables[k.label] or 'no key'}: {k.retired}" for k in self.keys)
            self._no_keys = f"llms.{self._name}: no usable API key is left ({'; '.join(reasons)})"
            return
        loop = asyncio.get_running_loop()
        ends = [key.paused_until for key in self.keys if key.paused_until > loop.time()]
        if ends and (self._timer is None or self._timer.when() != min(ends)):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_at(min(ends), self._pause_over)

    def _pause_over(self) -> None:
        self._timer = None
        self.check_keys()
        self.pump()


def _room(key: _Key) -> tuple[int, int]:
    return key.slots - key.in_use, key.batch.permits


class Lease:
    """Leave for one try of a request. It ends once: `settle`, `release` or `lose`."""

    __slots__ = ("_batch", "_client", "_estimate", "_key", "_llm", "_open")

    def __init__(self, client: LimitsClient, llm: LlmLimits, key: _Key, estimate: Estimate) -> None:
        self._client = client
        self._llm = llm
        self._key = key
        self._estimate = estimate
        self._open = True
        self._batch = key.batch
        key.in_use += 1
        if key.rated:
            key.started += 1
            key.batch.permits -= 1
            key.batch.tokens -= key.rate_tokens(estimate)

    @property
    def key_label(self) -> str:
        """Label of the key to use."""
        return self._key.label

    def settle(self, tokens: int, cost_usd: float) -> None:
        """The reply has come: it took so many tokens, prompt and completion, and dollars."""
        self._client.cost.spent += picodollars(cost_usd)
        self._client.tokens.spent += tokens
        if self._key.limits.tokens_per_minute is not None:
            estimated = self._key.rate_tokens(self._estimate)
            self._key.unused(self._batch, 0, estimated - tokens)
        self._end()

    def release(self) -> None:
        """The try has ended without costing anything."""
        self._end()

    def lose(self) -> None:
        """No reply came, and the request may have been billed: count it at its worst case."""
        self._client.cost.lost += self._estimate.cost
        self._client.tokens.lost += self._estimate.tokens
        self._end()

    def pause(self, seconds: float) -> None:
        """The server asked to be left alone: nobody uses this key for so long."""
        until = asyncio.get_running_loop().time() + seconds
        if until > self._key.paused_until:
            self._key.paused_until = until
            self._llm.check_keys()
            self._client.news()

    def retire(self, reason: str) -> None:
        """The key is of no more use in this run, for anybody."""
        self._key.retired = reason
        self._llm.check_keys()
        self._client.news()

    def _end(self) -> None:
        if not self._open:
            raise ValueError("a lease ends once")
        self._open = False
        self._client.cost.in_use -= self._estimate.cost
        self._client.tokens.in_use -= self._estimate.tokens
        self._key.in_use -= 1
        self._client.freed(self._llm)
