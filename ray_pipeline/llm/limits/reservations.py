"""Money or tokens of the whole run: spent, and reserved for what is in flight."""

from __future__ import annotations

from dataclasses import dataclass

from ray_pipeline.llm.limits.protocol import BudgetReport


@dataclass(slots=True)
class Account:
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


class Reservations:
    """Money or tokens of the run. ``spent at start + all clients' ceilings <= limit``, always."""

    def __init__(self, limit: int | None, spent: int) -> None:
        self.limit = limit
        self._spent_before = spent
        self._accounts: dict[str, Account] = {}

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
            account = self._accounts[client] = Account(before=report.spent)
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
