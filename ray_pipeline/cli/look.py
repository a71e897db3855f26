"""The commands that inspect a run, even while it is running: status, rows, trace, report."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_pipeline.cli.terminal import RunDirectory, out

app = typer.Typer()


@app.command()
def status(run: RunDirectory) -> None:
    """Show how many rows each stage kept, dropped and failed, even while the run is running."""
    from ray_pipeline.cli.views import look as views
    from ray_pipeline.run import Run

    out.print(views.status(Run(run).reader))


@app.command()
def rows(
    run: RunDirectory,
    stage: Annotated[str, typer.Argument(help="a stage, named as in the ledger")],
    status: Annotated[str | None, typer.Option(help="kept, dropped or failed")] = None,
    reason: Annotated[
        str | None, typer.Option(help="only rows whose reason starts with this text")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="only rows of this source, named as in the configuration")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="show this many rows at most")] = 20,
    json: Annotated[bool, typer.Option("--json", help="print JSON lines")] = False,
) -> None:
    """Show the rows that a stage kept, dropped or failed, and why."""
    from ray_pipeline.cli.views import look as views
    from ray_pipeline.run import Run

    of_run = Run(run)
    found = of_run.rows(stage, status=status, reason=reason, limit=limit, source=source)
    if json:
        views.print_json_rows(out, found)
    else:
        views.print_rows(out, found, of_run.account(stage), limit)


@app.command()
def trace(
    run: RunDirectory,
    row_id: Annotated[
        str, typer.Argument(metavar="ROW_ID", help="a row's id, or its first digits (6 or more)")
    ],
) -> None:
    """Show what each stage did with one row, with its values before and after."""
    from ray_pipeline.cli.views import look as views
    from ray_pipeline.run import Run

    of_run = Run(run)
    out.print(views.trace(of_run.trace(row_id), of_run.status))


@app.command()
def report(run: RunDirectory) -> None:
    """Write the HTML report of a run, replacing an earlier one."""
    from ray_pipeline.run import Run

    out.print(f"report: {Run(run).report()}", soft_wrap=True)
