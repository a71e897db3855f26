"""The errors that users see. Each message says what is wrong, where, and how to fix it."""


class UserError(Exception):
    """The configuration or the input is wrong (exit code 2). Nothing was started."""


class RunError(Exception):
    """The run could not continue (exit code 1). What was committed stays valid."""


class BudgetExhausted(Exception):
    """The money or token budget does not allow the next request (exit code 3)."""


class Stopping(Exception):
    """The run is stopping: no new work is started; requests in flight may still finish."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message; its type's name where the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def in_one_line(error: BaseException, length: int = 500) -> str:
    """An exception's whole message as one line, cut off at a number of characters."""
    return " ".join(str(error).split())[:length]


def last_line(error: BaseException) -> str:
    """The last line of an exception's message; its type's name where the message is empty.

    For messages that contain a traceback: its last line names the cause.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
