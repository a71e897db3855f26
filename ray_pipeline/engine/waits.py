"""What a run waits for outside itself: pauses that model servers ask for, told once each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from ray_pipeline.core.text import duration, one_line
from ray_pipeline.llm.config import LlmConfig
from ray_pipeline.llm.limits.protocol import KeyUse

#: Seconds: shorter pauses are part of any server's day.
_TOLD_FROM = 10.0
#: Seconds by which a pause must have moved to count as another one.
_MOVED = 60.0
#: Seconds from when a pause is seen until it is told: by then the rows that wait are known.
_SETTLED = 2.0
#: Seconds between reminders of the same pause.
_REMINDER = 600.0
_WORDS = 200


class PauseNews:
    """Tells of each pause of an API key once, and again every ten minutes.

    Args:
        say: takes a line.
        llms: language models by name.
        clock: returns seconds since the epoch.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        llms: Mapping[str, LlmConfig],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._say = say
        self._llms = llms
        self._clock = clock
        #: When each key's pause ends, and when it was told, by model and key.
        self._told: dict[tuple[str, str], tuple[float, float]] = {}
        #: When each key's pause was seen first.
        self._seen: dict[tuple[str, str], float] = {}

    def update(self, keys: Sequence[KeyUse], rows: Mapping[str, int]) -> list[str]:
        """Tell of new pauses; returns a line for each pause that lasts.

        Args:
            keys: what requests wait for.
            rows: number of rows that wait for an answer, by the model's name.
        """
        now = self._clock()
        lines = []
        for key in keys:
            name = (key.llm, key.key)
            if not key.pause_seconds:
                self._told.pop(name, None)
                self._seen.pop(name, None)
            if key.pause_seconds < (0.1 if name in self._told else _TOLD_FROM):
                continue
            if now < self._seen.setdefault(name, now) + _SETTLED:
                continue
            line = self._line(key, keys, rows.get(key.llm, 0), now)
            lines.append(line)
            until, told_at = self._told.get(name, (0.0, 0.0))
            ends = now + key.pause_seconds
            if ends > until + _MOVED or now >= told_at + _REMINDER:
                self._told[name] = ends, now
                self._say(line)
        return lines

    def _line(self, key: KeyUse, keys: Sequence[KeyUse], rows: int, now: float) -> str:
        of_key = "" if key.key == "no key" else f", key {key.key}"
        number = f"{max(rows, key.waiting):,}"
        words = f": {one_line(key.pause_reason, _WORDS)}" if key.pause_reason else ""
        return (
            f"waiting: the server of llms.{key.llm}{of_key} asks to wait until "
            f"{clock_time(now + key.pause_seconds, now)} ({duration(key.pause_seconds)}); {number} "
            f"rows wait for an answer; {self._meanwhile(key, keys)}{words}"
        )

    def _meanwhile(self, paused: KeyUse, keys: Sequence[KeyUse]) -> str:
        """What else runs."""
        usable = [k for k in keys if not k.pause_seconds and k.retired is None]
        names = sorted(k.key for k in usable if k.llm == paused.llm)
        if names:
            return f"its other keys go on ({', '.join(names)})"
        patience = self._llms[paused.llm].give_up_after_seconds
        bound = ""
        if patience < paused.pause_seconds:
            bound = f", and the run stops after {duration(patience)} of it (give_up_after_seconds)"
        others = sorted({k.llm for k in usable if k.llm != paused.llm and k.in_flight})
        if not others:
            return f"other work runs on{bound}"
        return f"stages with {', '.join(f'llms.{name}' for name in others)} run on{bound}"


def clock_time(seconds: float, now: float) -> str:
    """A moment as the clock of this machine shows it, with the date unless it is today's."""
    then, today = time.localtime(seconds), time.localtime(now)
    same_day = then[:3] == today[:3]
    return time.strftime("%H:%M:%S" if same_day else "%Y-%m-%d %H:%M:%S", then)


def paused(keys: Sequence[KeyUse]) -> Iterator[KeyUse]:
    """The keys that are paused while requests wait for them."""
    for key in keys:
        if key.pause_seconds and key.waiting and key.retired is None:
            yield key
