"""The messages that server and client exchange in a sync, and the time limits of both."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

#: Lifetime of a request permit in seconds, from the moment a client requested it.
PERMIT_SECONDS = 1.0
#: A minute, plus a permit's lifetime, plus a second for network delays.
WINDOW_SECONDS = 60.0 + PERMIT_SECONDS + 1.0
#: Seconds between two syncs of a client with waiting requests, and of one without.
SYNC_SECONDS = 0.1
HEARTBEAT_SECONDS = 0.25
#: After this time without requests, a client returns all permits and stops syncing.
IDLE_SECONDS = 1.0
#: A client that has not called for this number of seconds is considered dead.
SILENT_SECONDS = 5.0
#: Seconds that a client may use its grants without a sync; below `SILENT_SECONDS`.
LEASE_SECONDS = 4.0
#: Seconds that a client tries to reach the server before the run fails.
UNREACHABLE_SECONDS = 60.0
CALL_SECONDS = 10.0
#: If there are fewer slots than clients, the clients take turns at this interval.
TURN_SECONDS = 2.0
#: The server can take about this many syncs a second.
SYNCS_PER_SECOND = 250
PICODOLLARS = 10**12


def picodollars(usd: float) -> int:
    """Whole picodollars, rounded up."""
    return math.ceil(usd * PICODOLLARS - 1e-3)


@dataclass(frozen=True)
class KeyLimits:
    """Limits of one API key, for the whole cluster. None: no limit."""

    #: Requests in flight.
    concurrency: int
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """Upper bounds of what one try of a request may use."""

    #: The most it can cost, in picodollars.
    cost: int = 0
    #: The most tokens it can use, prompt and completion.
    tokens: int = 0
    #: Tokens to count against the tokens per minute until the true number is known.
    rate_tokens: int = 0


@dataclass(slots=True)
class KeyReport:
    """What a client uses of one key, and what it requests."""

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
    #: The model's server asked for a pause of this length from now, with these words.
    pause_seconds: float = 0.0
    pause_reason: str = ""
    #: Age of the client's oldest request in flight, and tries that it has started in all.
    oldest_seconds: float = 0.0
    tries: int = 0
    #: Why the key is no longer usable; None: it is usable.
    retired: str | None = None


@dataclass(slots=True)
class BudgetReport:
    """A client's money (picodollars) or tokens. ``spent`` and ``lost`` count since its start."""

    spent: int = 0
    #: Reserved for requests whose reply never came: they may have been billed.
    lost: int = 0
    #: Reserved for the requests in flight.
    in_use: int = 0
    #: What it would reserve soon.
    wanted: int = 0
    #: What the smallest request at the head of a queue needs; 0: there is none.
    next: int = 0


@dataclass(slots=True)
class ClientReport:
    """The client's message in a sync. Sending the same report again has no effect."""

    client: str
    sequence: int
    #: By the key's label.
    keys: dict[str, KeyReport]
    cost: BudgetReport
    tokens: BudgetReport
    #: The client has dropped all its leases; what is in flight it keeps.
    releases: bool = False
    #: Requests that wait for any key of a model, by the model's name.
    queued: dict[str, int] = field(default_factory=dict)


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
    #: Why the key is paused, in the server's words.
    pause_reason: str = ""


@dataclass(slots=True)
class Grants:
    """The server's reply in a sync."""

    sequence: int
    keys: dict[str, KeyGrant]
    #: How far the client's spent, lost and reserved together may go; None: not limited.
    cost_ceiling: int | None
    tokens_ceiling: int | None
    #: Why no more requests may start in this run; None: they may.
    exhausted: str | None
    #: The client must give back slots that another one waits for: sync soon.
    hurry: bool
    #: Minimum number of seconds between two syncs.
    sync_seconds: float
    #: The run stops: no more requests may start.
    stopping: bool = False


@dataclass(frozen=True, slots=True)
class KeyUse:
    """What the requests of the whole run do with one API key, or wait for."""

    #: Name of the model under ``llms``, and of the key.
    llm: str
    key: str
    in_flight: int
    #: Age of the oldest request in flight.
    oldest_seconds: float
    #: Tries that were started in all; it may lose those of workers that have died.
    tries: int
    #: Requests that wait for any key of the model.
    waiting: int
    #: Seconds left of a pause that the model's server asked for, and its words; 0: no pause.
    pause_seconds: float
    pause_reason: str
    #: Why the key is no longer usable; None: it is usable.
    retired: str | None
