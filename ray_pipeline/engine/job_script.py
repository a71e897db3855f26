"""Finds the job script that a configuration names, and refuses one that came with a run directory.

A job script is Python: whoever chooses it runs code with the rights of the user. A configuration
that the user keeps may name any script. A run directory may come from somebody else, and ``plan``
or ``retry`` of it must not run what it names or contains, unless the user names the script.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_pipeline.core.config import nearest
from ray_pipeline.core.errors import UserError
from ray_pipeline.core.file_names import is_file, shown
from ray_pipeline.rundir.layout import (
    CONFIG_FILE,
    ENVIRONMENT_FILE,
    LEDGER_FILE,
    RUN_LOCK,
    UNITS_FILE,
)

_REPOSITORY = Path(__file__).resolve().parents[2]
#: Files of which a folder with a ``config.yaml`` has at least one where it is a run directory.
_OF_RUNS = (LEDGER_FILE, ENVIRONMENT_FILE, UNITS_FILE, RUN_LOCK)


def find_script(
    raw: Mapping[str, Any], where: str, config_file: Path | None, *, is_named: bool, of_run: bool
) -> Path:
    """The job script of a configuration.

    Args:
        raw: the configuration.
        where: the file or origin of the configuration, for messages.
        config_file: its file, whose folder may name the job; None: it has none.
        is_named: whether the user named the script on the command line, not the file.
        of_run: whether the configuration is that of a run directory.

    Raises:
        UserError: there is no such script, or it is not run without being named by the user.
    """
    folders = [Path.cwd() / "jobs", _REPOSITORY / "jobs"]
    scripts = {p.stem: p for f in reversed(folders) for p in f.glob("*.py") if p.stem != "__init__"}
    script = _named(raw, where, config_file, scripts)
    if is_named:
        return script
    place = script.resolve()
    if (run := _run_around(place, raw.get("run_dir"))) is not None:
        raise UserError(_refusal(where, place, f"the job script lies in the run directory {run}"))
    of_run = of_run or (config_file is not None and _is_run(config_file.absolute().parent))
    if of_run and place.parent not in [folder.resolve() for folder in folders]:
        raise UserError(_refusal(where, place, "the configuration is that of a run directory"))
    return script


def _named(
    raw: Mapping[str, Any], where: str, config_file: Path | None, scripts: Mapping[str, Path]
) -> Path:
    if job := raw.get("job"):
        script = Path(str(job))
        if script.suffix != ".py":
            script = scripts.get(str(job).replace("-", "_"), script)
        if not is_file(script):
            hint = nearest(str(job), list(scripts))
            raise UserError(f"{where}: job: no job script {shown(str(job))}{hint}")
        return script
    folder = "" if config_file is None else config_file.absolute().parent.name
    for candidate in (str(raw.get("name", "")).replace("-", "_"), folder):
        if candidate in scripts:
            return scripts[candidate]
    raise UserError(
        f"{where}: neither `job` nor `name` ({raw.get('name')!r}) names a job script"
        f"{nearest(str(raw.get('name')), list(scripts))}"
    )


def _run_around(script: Path, run_dir: object) -> Path | None:
    """The run directory that a file lies in: one that is there, or that the configuration names."""
    is_local = isinstance(run_dir, str) and "://" not in run_dir and run_dir.isprintable()
    own = Path(str(run_dir)).expanduser().resolve() if is_local else None
    return next((p for p in script.parents if p == own or _is_run(p)), None)


def _is_run(folder: Path) -> bool:
    return is_file(folder / CONFIG_FILE) and any(is_file(folder / name) for name in _OF_RUNS)


def _refusal(where: str, script: Path, why: str) -> str:
    return (
        f"{where}: job: {why}, and running a job runs the Python code of {script}, which is not "
        "done for a directory that somebody may have sent. Read the script. To run it, name it "
        f"yourself: --job {script}"
    )


def names_job(overrides: Sequence[str] | Mapping[str, Any]) -> bool:
    """Whether overrides on the command line name the job script."""
    return any(item.partition("=")[0] == "job" for item in overrides)
