"""How a command ends: every end that is not the user's own has a message."""

from __future__ import annotations

import os
from io import StringIO

import pytest
import typer
from typer.testing import CliRunner

from ray_pipeline.cli import terminal
from ray_pipeline.cli.terminal import errors_explained


def command_that_raises(error: Exception) -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def command() -> None:
        with errors_explained():
            raise error

    return app


def test_a_broken_pipe_inside_the_command_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Typer takes every broken pipe for a reader that wants no more, and ends silently."""
    shown = StringIO()
    monkeypatch.setattr(terminal.err, "file", shown)
    ended = CliRunner().invoke(command_that_raises(BrokenPipeError(32, "Broken pipe")), [])
    assert ended.exit_code == 1
    assert "error: BrokenPipeError: [Errno 32] Broken pipe" in shown.getvalue()


def test_a_reader_of_the_output_may_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in ``ray-pipeline rows RUN STAGE | head``."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    shown = StringIO()
    with os.fdopen(write_end, "w") as output:
        monkeypatch.setattr(terminal.out, "file", output)
        monkeypatch.setattr(terminal.err, "file", shown)
        ended = CliRunner().invoke(command_that_raises(BrokenPipeError(32, "Broken pipe")), [])
    assert ended.exit_code == 1
    assert shown.getvalue() == ""
