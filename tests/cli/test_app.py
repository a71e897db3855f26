"""The command as a whole: what it offers, how fast it starts, how it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.command import Command
from support.made_run import made_run

#: What takes seconds to import, and what nobody who looks at a run needs.
HEAVY = {"ray", "torch", "transformers", "ray_pipeline.stages", "ray_pipeline.engine"}

COMMANDS = ["run", "plan", "retry", "status", "rows", "trace", "report", "preview", "diff"]
COMMANDS += ["generate", "models"]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["status", "made"], ["rows", "made", "tidy"], ["report", "made"]]
)
def test_looking_at_a_run_imports_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    made_run(str(tmp_path / "made"))
    script = (
        "import sys\n"
        "from ray_pipeline.cli.app import app\n"
        f"app({arguments!r}, standalone_mode=False)\n"
        f"heavy = {HEAVY!r} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_help_names_every_command_in_order(tmp_path: Path) -> None:
    done = Command(None, tmp_path)("--help", COLUMNS="100")
    assert done.code == 0
    words = [line.strip(" │").split(" ")[0] for line in done.out.splitlines()]
    assert [word for word in words if word in COMMANDS] == COMMANDS


def test_looks_at_a_run(tmp_path: Path) -> None:
    run = made_run(str(tmp_path / "made"))
    command = Command(None, tmp_path)
    shown = command("status", "made")
    assert shown.code == 0 and "succeeded" in shown.out and "tidy:spam" in shown.out
    shown = command("rows", "made", "tidy", "--status", "dropped", "--limit", "1")
    assert shown.code == 0 and "two spam" in shown.out and "six spam" not in shown.out
    assert "1 rows shown" in shown.out
    shown = command("trace", "made", run.row_id(0)[:10])
    assert shown.code == 0 and "came through every stage" in shown.out
    shown = command("report", "made")
    assert shown.code == 0 and (tmp_path / "made/report.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status", "mde"], "mde: not a run directory (no ledger.json); did you mean 'made'?"),
        (["report", "mde"], "did you mean 'made'?"),
        (["rows", "made", "tdy"], "did you mean 'tidy'?"),
        (["trace", "made", "0123456789"], "no committed row"),
        (["retry", "mde"], "did you mean 'made'?"),
        (["preview", "made"], "run it until weigh-scores first"),
        (["preview", "made", "--share", "2"], "--share: "),
        (["models", "fetch", "nobody"], "nobody"),
    ],
)
def test_wrong_input_gets_one_message(tmp_path: Path, arguments: list[str], message: str) -> None:
    made_run(str(tmp_path / "made"))
    done = Command(None, tmp_path)(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ") and message in done.err
    assert "Traceback" not in done.err
