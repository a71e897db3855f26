"""How a command ends: every end that is not the user's own has a message."""

from __future__ import annotations

import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
import typer
from support.command import InProcess
from support.made_run import made_run
from typer.testing import CliRunner

from ray_pipeline.cli import terminal
from ray_pipeline.cli.app import app
from ray_pipeline.cli.terminal import errors_explained
from ray_pipeline.core.errors import UserError


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


def test_a_terminal_without_unicode_gets_escape_sequences() -> None:
    """And the undecodable bytes of a file name are shown wherever they are."""
    code = (
        "from ray_pipeline.cli.terminal import err, out; out.print('\\u2264'); err.print('\\udcff')"
    )
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | plain, capture_output=True, timeout=60
    )
    assert (ended.stdout, ended.stderr) == (b"\\u2264\n", b"\\udcff\n")


def test_a_current_folder_that_is_gone_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = StringIO()
    monkeypatch.setattr(terminal.err, "file", shown)
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    ended = CliRunner().invoke(app, ["plan", "config.yaml"])
    assert ended.exit_code == 2
    assert "the current folder cannot be used" in shown.getvalue()


@pytest.mark.parametrize("console", [terminal.out, terminal.err])
def test_what_looks_like_markup_is_shown_as_it_is(
    console: terminal.Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = StringIO()
    monkeypatch.setattr(console, "file", shown)
    console.print("report: runs/r[test]x/[bold]a[/bold]:smile:/[link=file:///x]", soft_wrap=True)
    assert shown.getvalue() == "report: runs/r[test]x/[bold]a[/bold]:smile:/[link=file:///x]\n"


def test_what_is_printed_has_no_control_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = StringIO()
    monkeypatch.setattr(terminal.err, "file", shown)
    turned = "runs/\u202egpj.exe\u2066x\u2069 \x1b]0;title\x07 \x9b31m"
    ended = CliRunner().invoke(command_that_raises(UserError(f"{turned}: no such run")), [])
    assert ended.exit_code == 2
    text = shown.getvalue()
    assert not set(text) & set("\u202e\u2066\u2069\x1b\x07\x9b") and "gpj.exe" in text


def test_the_path_of_a_report_is_printed_whole(tmp_path: Path) -> None:
    folder = tmp_path / "r[test]x"
    made_run(str(folder))
    done = InProcess(tmp_path)("report", folder)
    assert done.code == 0, done.text
    assert done.out.strip() == f"report: {folder}/report.html"
