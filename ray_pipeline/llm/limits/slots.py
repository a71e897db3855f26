"""Concurrency: the slots of one API key, leased to clients."""

from __future__ import annotations

from dataclasses import dataclass

from ray_pipeline.llm.limits.protocol import TURN_SECONDS


@dataclass(slots=True)
class SlotLease:
    #: What the client was last told.
    told: int = 0
    #: The most it can have in flight, until it confirms a smaller number.
    held: int = 0
    in_use: int = 0
    wanted: int = 0


class Slots:
    """Requests in flight with one key, shared among clients by need.

    None gets more than it can use while another one goes short; what nobody needs is spread evenly.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._leases: dict[str, SlotLease] = {}

    def hear(self, client: str, in_use: int, waiting: int, releases: bool) -> None:
        lease = self._leases.setdefault(client, SlotLease())
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
