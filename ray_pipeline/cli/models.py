"""The commands for the small models that come as packages: list, fetch."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from ray_pipeline.cli.terminal import out
from ray_pipeline.core.errors import UserError

app = typer.Typer(no_args_is_help=True, help="The small models that come as packages.")


@app.command("list")
def list_models() -> None:
    """List the packaged models and where they are installed."""
    from ray_pipeline.models import packaged

    table = Table("name", "kind", "package", "here", box=None, pad_edge=False)
    for name, model in packaged.PACKAGED.items():
        folder = packaged.models_dir() / name
        table.add_row(name, model.kind, model.package, str(folder) if folder.exists() else "no")
    out.print(table)


@app.command()
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(help="names of models; all of them by default")
    ] = None,
) -> None:
    """Install packaged models into the models folder."""
    from ray_pipeline.models import packaged

    for name in names or list(packaged.PACKAGED):
        try:
            out.print(f"{name}: {packaged.fetch(name)}", soft_wrap=True)
        except packaged.ModelError as error:
            raise UserError(str(error)) from None
