"""Finds a model by name: a folder, a packaged model, a hub id, or a model that a run trained."""

from __future__ import annotations

import atexit
import contextlib
import functools
import re
import shutil
import tempfile
from pathlib import Path

from ray_pipeline.core.config import nearest
from ray_pipeline.core.errors import RunError, UserError
from ray_pipeline.core.file_names import is_folder
from ray_pipeline.core.storage import Storage
from ray_pipeline.models import packaged as models
from ray_pipeline.rundir.checksums import DamagedFile
from ray_pipeline.rundir.layout import MODELS
from ray_pipeline.rundir.manifest import differences, recorded_files
from ray_pipeline.rundir.reader import RunReader

#: ``RUN:student`` and ``RUN/models/student``, a run being a path or a URI.
_OF_RUN = re.compile(r"(?P<run>.+?)(?::|/models/)(?P<model>[\w.-]+)/?")


def find_model(name: str) -> str:
    """Resolve a model's name to something that transformers and vLLM can load.

    Args:
        name: a folder, a packaged model, a hub id, or a run's model: ``RUN:NAME`` or
            ``RUN/models/NAME``, the run being a path or a URI.

    Returns:
        A folder on this machine, or a hub id.

    Raises:
        UserError: there is no such model; the message says which there are.
    """
    folder = Path(name).expanduser()
    if is_folder(folder):
        if not (folder / "config.json").is_file() and (there := model_names(Storage(str(folder)))):
            raise UserError(
                f"folder '{name}' is a run, not a model: name one of its models, as "
                f"{name}:{there[-1]} (it has {', '.join(there)})"
            )
        return models.resolve(name)
    if (of_run := _OF_RUN.fullmatch(name)) is not None:
        return _model_of_run(of_run["run"], of_run["model"])
    return models.resolve(name)


def _model_of_run(run: str, model: str) -> str:
    storage = Storage(run)
    there = model_names(storage)
    if model in there:
        return get_model(storage, model)
    if there:
        raise UserError(f"run {run} has no model '{model}'{nearest(model, there)}")
    RunReader(run)  # raises a better error when this is not a run directory
    raise UserError(
        f"run {run} has no models yet: run its job to the end of a stage that trains one"
    )


def model_names(storage: Storage) -> list[str]:
    """Names of the models that a run has finished training."""
    try:
        paths = [path.split("/") for path in storage.list(MODELS, recursive=True)]
    except OSError as error:
        raise UserError(f"{storage.uri('models')}: cannot be read: {error}") from None
    names = [parts[1] for parts in paths if len(parts) == 3 and parts[2] == "config.json"]
    # A process that was killed while it wrote a model leaves a hidden folder.
    return sorted(name for name in names if not name.startswith("."))


def model_folder(name: str) -> str:
    """The folder of a run's model, relative to the run directory."""
    return f"{MODELS}/{name}"


def get_model(storage: Storage, name: str) -> str:
    """A folder on this machine with a run's model; it is downloaded from object storage.

    Raises:
        RunError: the run has no such model.
        DamagedFile: a file of the model is not what was written.
    """
    folder = model_folder(name)
    if not storage.exists(f"{folder}/config.json"):
        raise RunError(f"{storage.uri(folder)}: the run has no such model")
    files = {}
    with contextlib.suppress(DamagedFile):  # of the list itself: `verify` says so
        recorded = recorded_files(storage).items()
        files = {path: file for path, file in recorded if path.startswith(f"{folder}/")}
    for path, how in differences(storage, files):
        raise DamagedFile(
            f"{storage.uri(path)} {how}. Run again: the stage that makes the model makes it again",
            how,
        )
    return str(storage.local_path(folder)) if storage.is_local else _downloaded(storage, folder)


@functools.cache
def _downloaded(storage: Storage, folder: str) -> str:
    scratch = tempfile.mkdtemp(prefix="ray-pipeline-model-")
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    for path in storage.list(folder, recursive=True):
        copy = Path(scratch, path.removeprefix(f"{folder}/"))
        copy.parent.mkdir(parents=True, exist_ok=True)
        with storage.open(path) as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, 2**24)
    return scratch
