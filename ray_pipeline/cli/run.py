"""The commands that run a job or estimate what running it would cost: run, plan, retry."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ray_pipeline.cli.terminal import (
    EXIT_CODES,
    RunDirectory,
    err,
    hung_up,
    native_output_hidden,
    out,
)
from ray_pipeline.core.errors import RunError, UserError

if TYPE_CHECKING:
    from ray_pipeline.engine.run import Job
    from ray_pipeline.pipeline import Pipeline
    from ray_pipeline.run import Run

app = typer.Typer()

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="the YAML configuration")]
Sets = Annotated[
    list[str], typer.Option("--set", metavar="a.b=c", help="override a key of the configuration")
]
RunDir = Annotated[
    str | None, typer.Option(help="the run directory, instead of the configuration's")
]
Until = Annotated[str | None, typer.Option(metavar="STAGE", help="the last stage to run")]
JobScript = Annotated[
    str | None,
    typer.Option(
        "--job",
        help="the job script, by name or path, instead of the configuration's; one that a run "
        "directory names or contains is run only if it is named here",
    ),
]
Address = Annotated[str | None, typer.Option(help="address of a Ray cluster to join")]

#: Text printed before a run's own message, by the status that the run ended with.
_HEADLINES = {
    "failed": "error: the run failed",
    "budget_exhausted": "stopped: the budget is exhausted (raise it under budget: to continue)",
    "interrupted": "interrupted (run the same command again to continue)",
}


@app.command()
def run(
    config: ConfigFile,
    set_: Sets = [],  # noqa: B006 - typer copies it
    run_dir: RunDir = None,
    until: Until = None,
    address: Address = None,
    job: JobScript = None,
) -> None:
    """Run a job and write its report. Run it again to resume; finished work is reused."""
    run_configured(config, set_, run_dir, until, address, script=job)


@app.command()
def plan(
    config: ConfigFile,
    set_: Sets = [],  # noqa: B006 - typer copies it
    run_dir: RunDir = None,
    until: Until = None,
    job: JobScript = None,
) -> None:
    """Show what a run would do, need and cost, without running anything."""
    from ray_pipeline.cli.views.plan import print_plan
    from ray_pipeline.engine.plan import plan
    from ray_pipeline.pipeline import load_job

    loaded = load_job(config, set_, run_dir, script=job)
    with native_output_hidden():
        plans = plan(loaded, until)
    print_plan(out, plans)


@app.command()
def retry(run: RunDirectory, address: Address = None, job: JobScript = None) -> None:
    """Run only the failed rows of a run again."""
    from ray_pipeline.pipeline import retry_job

    with retry_job(run, address=address, job=job) as found:
        _execute(found, retry=True)


def run_configured(
    config: Path,
    assignments: list[str],
    run_dir: str | None,
    until: str | None,
    address: str | None,
    pipeline: Pipeline | None = None,
    script: str | None = None,
) -> None:
    """Run the job of a configuration file; show its progress and how it ended.

    Raises:
        typer.Exit: the run did not succeed.
    """
    from ray_pipeline.pipeline import load_job

    _execute(load_job(config, assignments, run_dir, pipeline, address, script), until)


def _report_what_was_done(run_dir: str, message: str) -> None:
    """Write the report of a run that began and was then refused, as by a training without rows."""
    from ray_pipeline.run import Run

    with contextlib.suppress(UserError, RunError):  # the refusal is the message to show
        run = Run(run_dir)
        if run.status == "failed" and run.ledger.message == message and run.ledger.entries:
            run.report()


def _execute(job: Job, until: str | None = None, retry: bool = False) -> None:
    from ray_pipeline.cli.progress import ProgressDisplay
    from ray_pipeline.cli.views.look import status
    from ray_pipeline.core.storage import Storage
    from ray_pipeline.engine.ray_environment import interruptible
    from ray_pipeline.pipeline import run_job

    interruptible(hung_up)
    storage = Storage(job.config.run_dir)
    with contextlib.suppress(OSError):  # the run itself reports what is wrong with its directory
        storage.make_private()
    log = storage.local_path("logs/native.log") if storage.is_local else None
    with native_output_hidden(log), ProgressDisplay(out) as display:
        try:
            run = run_job(job, display=display, until=until, retry=retry, check=False)
        except UserError as error:
            _report_what_was_done(job.config.run_dir, str(error))
            raise
    out.print(status(run.reader))
    unwritten = _write_report(run)
    if run.status != "succeeded":
        message = f"{_HEADLINES[run.status]}: {run.ledger.message}"
        err.print(message, markup=False, soft_wrap=True)
        raise typer.Exit(EXIT_CODES[run.status])
    if unwritten is not None:
        fix = f"`ray-pipeline report {run.uri}` writes it when that is put right"
        text = f"error: {unwritten}. The run itself is complete; {fix}"
        err.print(text, markup=False, soft_wrap=True)
        raise typer.Exit(EXIT_CODES["failed"])


def _write_report(run: Run) -> RunError | None:
    """Write a run's report and say where it is; returns why it could not be written, if so."""
    try:
        out.print(f"report: {run.report()}", soft_wrap=True)
    except RunError as error:
        if run.status != "succeeded":  # the run's own message is the one that matters
            out.print(f"no report: {error}", markup=False, soft_wrap=True)
        return error
    return None
