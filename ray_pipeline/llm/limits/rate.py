"""Requests or tokens a minute of one API key, granted as permits."""

from __future__ import annotations

import math

from ray_pipeline.llm.limits.protocol import WINDOW_SECONDS

#: A grant of permits: the client and the number of the report it answers.
BatchId = tuple[str, int]


def rate_of(per_minute: int | None, now: float) -> Rate | None:
    return None if per_minute is None else Rate(per_minute, now)


class Rate:
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
        self._granted: dict[BatchId, tuple[float, int]] = {}  # oldest first
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

    def take(self, batch: BatchId, amount: int, now: float) -> None:
        """Grant what was offered."""
        self._granted[batch] = (now, amount)
        self._in_window += amount
        self._level -= amount
        self._served[batch[0]] = now

    def give_back(self, batch: BatchId, amount: int) -> None:
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
