"""The command that compares two runs."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_pipeline.cli.terminal import out, without_login

app = typer.Typer()


@app.command()
def diff(
    run_a: Annotated[
        str, typer.Argument(metavar="RUN_A", help="a run directory", callback=without_login)
    ],
    run_b: Annotated[
        str, typer.Argument(metavar="RUN_B", help="another one", callback=without_login)
    ],
    json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Show what changed between two runs. The exit code is 0 even if they differ."""
    from ray_pipeline.cli.views import diff as views
    from ray_pipeline.run import Run
    from ray_pipeline.rundir.diff import diff

    views.print_diff(out, diff(Run(run_a).reader, Run(run_b).reader), as_json=json)
