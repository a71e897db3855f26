"""The command that looks whether the files of a run are what was written."""

from __future__ import annotations

import typer

from ray_pipeline.cli.terminal import EXIT_CODES, RunDirectory, out

app = typer.Typer()


@app.command()
def verify(run: RunDirectory) -> None:
    """Look at every file of a run, and name those that are damaged, each with how to fix it.

    Nothing is changed. The exit code is 0 if all is well, and 1 if anything is damaged.
    """
    from ray_pipeline.core.storage import Storage
    from ray_pipeline.core.text import plain
    from ray_pipeline.rundir.verify import Verification

    verification = Verification(Storage(run))
    damages = 0
    for finding in verification.findings():
        damages += 1
        out.print(plain(str(finding)), markup=False, soft_wrap=True)
    if verification.unchecked_parts:
        out.print(
            f"{verification.unchecked_parts} parts were written by an earlier version, without "
            "checksums: their footers were compared, and not all of their bytes"
        )
    found = "no damage" if not damages else f"{damages} damaged"
    out.print(f"{verification.files} files were looked at: {found}")
    if damages:
        raise typer.Exit(EXIT_CODES["failed"])
