"""The errors that users see. Each message says what is wrong, where, and how to fix it."""

from __future__ import annotations

import itertools
import re

from ray_pipeline.core.redaction import redacted


class _Shown(Exception):
    """An error whose message users see: secrets in it are hidden when it is made."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(redacted(arg) if isinstance(arg, str) else arg for arg in args))


class UserError(_Shown):
    """The configuration or the input is wrong (exit code 2). Nothing was started."""


class RunError(_Shown):
    """The run could not continue (exit code 1). What was committed stays valid."""


class LockLost(RunError):
    """Another run holds this run's directory by now, or may: this one must not write any more."""


class BudgetExhausted(_Shown):
    """The money or token budget does not allow the next request (exit code 3)."""


class Stopping(Exception):
    """The run is stopping: no new work is started; requests in flight may still finish."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message; its type's name where the message is empty."""
    return (redacted(str(error)).strip().splitlines() or [type(error).__name__])[0]


def in_one_line(error: BaseException, length: int = 500) -> str:
    """An exception's whole message as one line, cut off at a number of characters."""
    return " ".join(redacted(str(error)).split())[:length]


def last_line(error: BaseException) -> str:
    """The last line of an exception's message; its type's name where the message is empty.

    For messages that contain a traceback: its last line names the cause.
    """
    return (redacted(str(error)).strip().splitlines() or [type(error).__name__])[-1]


def cause_in_words(error: BaseException, length: int = 500) -> str:
    """The cause of an error that another process raised, in one line and in its own words.

    Ray's messages hold a traceback, colour codes, process ids and memory addresses around the
    cause, or explain the death of a process at length. Errors of this project are their message;
    any other error is its type and its message.

    Args:
        error: an exception of Ray, of a worker, or of this process.
        length: maximum number of characters.
    """
    cause = getattr(error, "cause", None)
    while isinstance(cause, BaseException):
        error, cause = cause, getattr(cause, "cause", None)
    text = redacted(without_colours(str(error))).strip()
    if _FRAME.search(text) and (message := _one_line(_after_traceback(text))):
        return message[:length]
    if death := _DEATH.search(text):
        return _death(death["why"])[:length]
    text = _one_line(_FOR_MACHINES.sub("", text))
    if not type(error).__module__.startswith("ray_pipeline."):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text[:length]


def without_colours(text: str) -> str:
    """A text without the control sequences that colour it on a terminal."""
    return _COLOURS.sub("", text)


_COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_FRAME = re.compile(r"^ +File \"", re.MULTILINE)
#: Ray: "The actor is dead because its worker process has died. Worker exit type: …".
_DEATH = re.compile(r"(?:actor is dead|actor died|task failed) because (?P<why>[^\n]+)", re.I)
_FOR_MACHINES = re.compile(
    r" *\((?:pid|ip|actor_id|repr)=[^)\n]*(?:\([^)\n]*\)[^)\n]*)*\)|<[\w.]+ object at 0x[0-9a-f]+>"
    r"|^\t\w+: .*$",
    re.MULTILINE,
)
#: What a traceback holds: frames, their source lines, and the lines between two tracebacks.
_OF_TRACEBACK = re.compile(r"^(?:\s|Traceback |ray::)")


def _after_traceback(text: str) -> str:
    """The message at the end of the last traceback in a text."""
    lines = text.splitlines()
    last = max(number for number, line in enumerate(lines) if _FRAME.match(line))
    message = itertools.dropwhile(_OF_TRACEBACK.match, lines[last + 1 :])
    # An exception of this project is its message: the type is for programmers.
    return re.sub(r"^ray_pipeline\.[\w.]+: ", "", "\n".join(message))


def _death(why: str) -> str:
    if "worker process has died" in why:
        return "its process died: it was killed, ran out of memory, or crashed in native code"
    return _one_line(_FOR_MACHINES.sub("", why).split(" Worker exit type:")[0])


def _one_line(text: str) -> str:
    return " ".join(text.split())
