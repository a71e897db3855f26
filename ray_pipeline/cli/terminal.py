"""Shared by the commands: output streams, exit codes, options, and hiding Ray's own output."""

from __future__ import annotations

import contextlib
import os
import select
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.console import Console

from ray_pipeline.core.errors import BudgetExhausted, RunError, UserError
from ray_pipeline.core.redaction import has_login, redacted
from ray_pipeline.core.text import harmless

#: By the status that a run ends with. Wrong input exits with 2.
EXIT_CODES = {"succeeded": 0, "failed": 1, "budget_exhausted": 3, "interrupted": 130}


class _Terminal(Console):
    """A console that shows texts as they are: no markup, no emoji codes, no control characters.

    A path may be ``runs/r[test]``, and a server's words may hold anything.
    """

    def __init__(self, file: IO[str], width: int | None = None) -> None:
        super().__init__(file=file, width=width, highlight=False, markup=False, emoji=False)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; texts without control characters."""
        shown = [harmless(item) if isinstance(item, str) else item for item in objects]
        super().print(*shown, **options)


# On copies of the two descriptors: while a run is in progress, the originals belong to Ray
# (`native_output_hidden`). A character that the terminal's encoding lacks is written as an escape
# sequence: under LANG=C that may be any but ASCII, and elsewhere the bytes of a file name that are
# no text. A file or a pipe has no width: tables then get a wide page.
out = _Terminal(
    os.fdopen(os.dup(1), "w", buffering=1, errors="backslashreplace"),
    None if os.isatty(1) else 120,
)
err = _Terminal(os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace"))


def without_login(uri: str) -> str:
    """The URI of a run directory, as it is.

    Raises:
        UserError: it holds a password, which other users of this machine see in the list of
            processes.
    """
    if has_login(uri):
        raise UserError(
            f"{uri}: leave out the user and the password, and set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY instead"
        )
    return uri


#: Which of the two are terminals; that cannot be asked any more once the terminal is closed.
_TERMINALS = [console for console in (out, err) if os.isatty(console.file.fileno())]

RunDirectory = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="a run directory: path or s3:// URI", callback=without_login
    ),
]


@contextlib.contextmanager
def errors_explained() -> Iterator[None]:
    """Turn expected errors into one message and an exit code, without a traceback."""
    try:
        _check_current_folder()
        yield
    except UserError as error:
        _fail(error, 2)
    except RunError as error:
        _fail(error, EXIT_CODES["failed"])
    except BudgetExhausted as error:
        _fail(error, EXIT_CODES["budget_exhausted"])
    except BrokenPipeError as error:
        # Typer ends silently on each of them, as is right where the reader of the output has left.
        if _reader_has_left(out):
            raise
        _fail(RunError(f"{type(error).__name__}: {error}"), EXIT_CODES["failed"])
    except KeyboardInterrupt:
        err.print("interrupted; run the same command again to continue")
        raise typer.Exit(EXIT_CODES["interrupted"]) from None


def _check_current_folder() -> None:
    """Check that the current folder exists: paths are relative to it, and Ray needs it.

    Raises:
        UserError: it was deleted while the shell was in it.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(
            f"the current folder cannot be used ({error.strerror}): it may have been deleted and "
            "made again. Change into a folder that exists (`cd`), and run the command again"
        ) from None


def _fail(error: Exception, code: int) -> None:
    err.print(f"error: {error}", markup=False, soft_wrap=True)
    raise typer.Exit(code)


def hung_up() -> None:
    """Write nothing more to a terminal that was closed: each attempt would be an error."""
    for console in _TERMINALS:
        with contextlib.suppress(OSError, ValueError):
            descriptor = console.file.fileno()
            if not os.isatty(descriptor):
                nothing = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nothing, descriptor)
                os.close(nothing)


def _reader_has_left(console: Console) -> bool:
    """Whether a console writes into a pipe that nobody reads any more."""
    try:
        descriptor = console.file.fileno()
    except OSError:  # not a file of the system
        return False
    pipe = select.poll()
    pipe.register(descriptor, 0)  # errors are reported whatever is asked for
    return any(event & select.POLLERR for _, event in pipe.poll(0))


@contextlib.contextmanager
def native_output_hidden(log: Path | None = None) -> Iterator[None]:
    """Keep the output of Ray's native code off the terminal.

    It goes to a file, and from there to the terminal only if the block ends with an unexpected
    error, whose cause it may hold. A lasting file is best: native code may end the process
    without Python noticing.

    Args:
        log: the file to append to; None: a temporary file.
    """
    with _opened(log) as chatter:
        start = chatter.seek(0, os.SEEK_END)
        streams = [os.dup(1), os.dup(2)]
        os.dup2(chatter.fileno(), 1)
        os.dup2(chatter.fileno(), 2)
        unexpected = False
        try:
            yield
        except (UserError, RunError, BudgetExhausted, KeyboardInterrupt):
            raise
        except BaseException:
            unexpected = True
            raise
        finally:
            for number, copy in enumerate(streams, start=1):
                os.dup2(copy, number)
                os.close(copy)
            chatter.seek(start)
            printed = chatter.read().decode(errors="replace")
            if (shown := redacted(printed)) != printed:
                chatter.seek(start)
                chatter.truncate()
                chatter.write(shown.encode())
            if unexpected:
                err.print(shown, markup=False)


def _opened(log: Path | None) -> IO[bytes]:
    if log is None:
        return tempfile.TemporaryFile()
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("a+b")  # another run in that directory may be writing to it
    except OSError:  # the run itself reports what is wrong with its directory
        return tempfile.TemporaryFile()
