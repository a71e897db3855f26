"""The `ray-pipeline` command, and the command line of a job script."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ray_pipeline.cli import (
    compress,
    diff,
    generate,
    look,
    models,
    preview,
    run,
    search,
    verify,
)
from ray_pipeline.cli.run import Address, RunDir, Sets, Until
from ray_pipeline.cli.terminal import errors_explained

if TYPE_CHECKING:
    from ray_pipeline.pipeline import Pipeline


class _Group(TyperGroup):
    """Commands whose errors end with a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        with errors_explained():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Make training data with language models on Ray, with every row accounted for.",
)
# The commands import what they need when they are called, so that `--help` does not load Ray.
app.add_typer(run.app)
app.add_typer(look.app)
app.add_typer(preview.app)
app.add_typer(diff.app)
app.add_typer(verify.app)
app.add_typer(generate.app)
app.add_typer(compress.app)
app.add_typer(search.app)
app.add_typer(models.app, name="models")


def main() -> None:
    """Entry point of the command."""
    # Read when Ray is imported. A thread of Ray Data that outlives the end of an interrupted run
    # would start another cluster, which this process then leaves behind.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    app()


def job_main(pipeline: Pipeline) -> None:
    """Entry point of a job script: ``python jobs/NAME.py --config CONFIG``."""

    def command(
        config: Annotated[Path, typer.Option("--config", help="the YAML configuration")],
        set_: Sets = [],  # noqa: B006 - typer copies it
        run_dir: RunDir = None,
        until: Until = None,
        address: Address = None,
    ) -> None:
        with errors_explained():
            run.run_configured(config, set_, run_dir, until, address, pipeline)

    command.__doc__ = f"Run the job {pipeline.name}."
    typer.run(command)


if __name__ == "__main__":
    main()
