"""The command that previews a selection of the best rows."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_pipeline.cli.terminal import RunDirectory, out

app = typer.Typer()


@app.command()
def preview(
    run: RunDirectory,
    min_score: Annotated[
        float | None, typer.Option(help="keep rows with at least this score")
    ] = None,
    share: Annotated[
        float | None, typer.Option(help="keep this fraction of the rows, best first (0-1)")
    ] = None,
    rows: Annotated[int | None, typer.Option(help="keep this many rows, best first")] = None,
    quantile: Annotated[
        float | None, typer.Option(help="keep rows at or above this quantile of the scores (0-1)")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="also count the kept rows by the values of this column"
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON object per subset")] = False,
) -> None:
    """Show what a quality threshold would keep of a run's scored rows, without writing anything.

    Without a threshold, each subset of the run's configuration is shown.
    """
    from ray_pipeline.cli.views import preview as views
    from ray_pipeline.run import Run
    from ray_pipeline.stages.subsets.preview import preview, subsets_asked

    reader = Run(run).reader
    measures = {"min_score": min_score, "share": share, "rows": rows, "quantile": quantile}
    subsets = subsets_asked(reader, measures)
    previews = {name: preview(reader, subset, by) for name, subset in subsets.items()}
    views.print_previews(out, previews, as_json=json)
