"""Shares concurrency, rates and budget among the clients of a run; used by the server only."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ray_pipeline.llm.limits.protocol import TURN_SECONDS, WINDOW_SECONDS, BudgetReport

# --------------------------------------------------------------------------- concurrency


@dataclass(slots=True)
class SlotLease:
    """One client's slots with one API key."""

    #: Slots of the last grant.
    granted: int = 0
    #: Maximum number of requests in flight, until the client confirms a smaller grant.
    held: int = 0
    in_use: int = 0
    wanted: int = 0


class Slots:
    """Slots for requests in flight with one API key, shared among clients by demand.

    No client gets more than it can use while another needs some; spare slots are spread evenly.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._leases: dict[str, SlotLease] = {}

    def update(self, client: str, in_use: int, waiting: int, releases: bool) -> None:
        """Process a client's report."""
        lease = self._leases.setdefault(client, SlotLease())
        # The client applied its last grant before it wrote this report.
        lease.held = in_use if releases else max(lease.granted, in_use)
        lease.in_use, lease.wanted = in_use, in_use + waiting
        if releases and lease.wanted == 0:
            del self._leases[client]

    def grant(self, client: str, now: float) -> int:
        """The number of slots that the client may use from now on."""
        lease = self._leases.get(client)
        if lease is None:
            return 0
        share = self._fair_shares(now)[client]
        others = sum(other.held for name, other in self._leases.items() if name != client)
        lease.granted = min(share, max(0, self._total - others))
        lease.held = max(lease.held, lease.granted)
        return lease.granted

    def must_return(self, client: str) -> bool:
        """Whether the client holds more than it was granted while another client waits."""
        lease = self._leases.get(client)
        if lease is None or lease.granted >= lease.held:
            return False
        return any(other.wanted > other.held for other in self._leases.values())

    def remove(self, client: str) -> None:
        """Take a dead client's slots back."""
        self._leases.pop(client, None)

    def _fair_shares(self, now: float) -> dict[str, int]:
        names = sorted(self._leases)
        wanting = [name for name in names if self._leases[name].wanted > 0]
        shares = dict.fromkeys(names, 0)
        if self._total < len(wanting):
            # Fewer slots than clients: they take turns, so that none waits for ever.
            turn = int(now / TURN_SECONDS)
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


# --------------------------------------------------------------------------- rates

#: A grant of permits: the client and the sequence number of the report it answers.
BatchId = tuple[str, int]


def rate_of(per_minute: int | None, now: float) -> Rate | None:
    """The rate of a limit; None where there is no limit."""
    return None if per_minute is None else Rate(per_minute, now)


class Rate:
    """Requests or tokens a minute of one API key, granted as permits.

    Never grants more than the limit in any `WINDOW_SECONDS`. Within that, a token bucket that
    refills at the limit's rate spreads the starts over the minute. The last request may overdraw
    it, so that a request larger than the bucket can start.
    """

    def __init__(self, limit: int, now: float) -> None:
        self._limit = limit
        self._per_second = limit / WINDOW_SECONDS
        self._depth = max(1.0, 2.0 * self._per_second)
        self._level = self._depth
        self._filled_at = now
        self._granted: dict[BatchId, tuple[float, int]] = {}  # oldest first
        self._in_window = 0
        self._demands: dict[str, int] = {}
        self._served: dict[str, float] = {}

    def offer(self, client: str, wanted: int, smallest: int, now: float) -> int:
        """The permits that a client can have: 0, or between ``smallest`` and ``wanted``."""
        self._pass_time(now)
        # A request larger than the whole limit starts once the window is empty.
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
        # Not enough for all clients: the one that was served longest ago comes first.
        waiting = (name for name, demand in self._demands.items() if demand > 0)
        if client != min(waiting, key=lambda name: (self._served.get(name, -math.inf), name)):
            return 0
        return smallest

    def take(self, batch: BatchId, amount: int, now: float) -> None:
        """Record a grant of offered permits."""
        self._granted[batch] = (now, amount)
        self._in_window += amount
        self._level -= amount
        self._served[batch[0]] = now

    def give_back(self, batch: BatchId, amount: int) -> None:
        """Return unused permits of a grant; a negative amount: more was used than granted."""
        grant = self._granted.get(batch)
        if grant is None or amount == 0:
            return  # the grant has left the window
        granted_at, granted = grant
        amount = min(amount, granted)
        self._granted[batch] = (granted_at, granted - amount)
        self._in_window -= amount
        self._level = min(self._depth, self._level + amount)

    def remove(self, client: str) -> None:
        """Remove the demand of a dead client."""
        self._demands.pop(client, None)

    def _pass_time(self, now: float) -> None:
        self._level = min(self._depth, self._level + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        while self._granted:
            batch, (granted_at, amount) = next(iter(self._granted.items()))
            if granted_at > now - WINDOW_SECONDS:
                return
            del self._granted[batch]
            self._in_window -= amount


# --------------------------------------------------------------------------- money and tokens


@dataclass(slots=True)
class BudgetShare:
    """One client's part of a budget. All amounts are totals since the client's start."""

    #: Spent before its first report to this server; the journal counts that already.
    spent_at_start: int = 0
    spent: int = 0
    lost: int = 0
    in_use: int = 0
    #: The ceiling in the last grant, and the highest one that the client may still apply.
    granted: int = 0
    ceiling: int = 0
    #: Whether it waits because its next request did not fit.
    is_waiting: bool = False
    is_dead: bool = False

    def used(self) -> int:
        """Spent, or possibly billed for requests without a reply."""
        return self.spent + self.lost


class Reservations:
    """A budget of money (picodollars) or tokens: spent, and reserved for requests in flight.

    ``spent at start + all clients' ceilings <= limit``, always.
    """

    def __init__(self, limit: int | None, spent: int) -> None:
        self.limit = limit
        self._spent_before = spent
        self._accounts: dict[str, BudgetShare] = {}

    @property
    def spent(self) -> int:
        """Spent by requests with a reply, including those of earlier starts."""
        return self._spent_before + sum(a.spent - a.spent_at_start for a in self._accounts.values())

    @property
    def unknown(self) -> int:
        """The most that requests without a reply, and killed clients, may have cost."""
        accounts = self._accounts.values()
        return sum(a.ceiling - a.spent if a.is_dead else a.lost for a in accounts)

    @property
    def committed(self) -> int:
        """Spent before this start, plus the ceilings of all clients."""
        return self._spent_before + sum(
            a.ceiling - a.spent_at_start for a in self._accounts.values()
        )

    def update(self, client: str, report: BudgetReport, releases: bool) -> None:
        """Process a client's report."""
        account = self._accounts.get(client)
        if account is None:
            account = self._accounts[client] = BudgetShare(spent_at_start=report.spent)
        account.is_dead = False
        account.spent, account.lost, account.in_use = report.spent, report.lost, report.in_use
        committed = account.used() + account.in_use
        account.ceiling = committed if releases else max(account.granted, committed)

    def grant(self, client: str, report: BudgetReport, releases: bool) -> int | None:
        """The client's new ceiling; None: no limit.

        It never gets less than its next request needs: several clients with such parts would wait
        for each other for ever.
        """
        if self.limit is None:
            return None
        account = self._accounts[client]
        committed = account.used() + account.in_use
        room = self.limit - self.committed + account.ceiling
        others_wait = any(a.is_waiting for name, a in self._accounts.items() if name != client)
        wanted = report.next if others_wait else max(report.next, report.wanted)
        ceiling = min(committed + (0 if releases else wanted), room)
        account.is_waiting = report.next > 0 and ceiling - committed < report.next
        account.granted = committed if account.is_waiting else max(committed, ceiling)
        account.ceiling = max(account.ceiling, account.granted)
        return account.granted

    def never_fits(self, client: str, report: BudgetReport) -> bool:
        """Whether the client's next request exceeds the budget although nothing is in flight."""
        if self.limit is None or report.next == 0 or report.in_use > 0:
            return False
        others = (a for name, a in self._accounts.items() if name != client and not a.is_dead)
        if any(a.ceiling > a.used() for a in others):
            return False
        account = self._accounts[client]
        return self.committed - account.ceiling + account.used() + report.next > self.limit

    def remove(self, client: str) -> None:
        """Mark a client as dead: its ceiling stays reserved, as what was billed is unknown."""
        if account := self._accounts.get(client):
            account.is_dead, account.is_waiting = True, False
