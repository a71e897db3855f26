"""Models by all the names that a person has for them: those of runs as well."""

from __future__ import annotations

import re
from pathlib import Path

from ray_pipeline import models
from ray_pipeline.config import nearest
from ray_pipeline.errors import UserError
from ray_pipeline.run_reader import RunReader
from ray_pipeline.storage import Storage

#: ``RUN:student`` and ``RUN/models/student``, a run being a path or a URI.
_OF_RUN = re.compile(r"(?P<run>.+?)(?::|/models/)(?P<model>[\w.-]+)/?")


def find_model(name: str) -> str:
    """What transformers and vLLM can load for a name.

    Args:
        name: a folder, a packaged model, a hub id, or a run's model: ``RUN:NAME`` or
            ``RUN/models/NAME``, the run being a path or a URI.

    Returns:
        A folder on this machine, or a hub id.

    Raises:
        UserError: there is no such model; the message says which there are.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file() and (there := _models(Storage(str(folder)))):
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
    there = _models(storage)
    if model in there:
        from ray_pipeline.train.model_store import get_model

        return get_model(storage, model)
    if there:
        raise UserError(f"run {run} has no model '{model}'{nearest(model, there)}")
    RunReader(run)  # says so when this is no run directory
    raise UserError(
        f"run {run} has no models yet: run its job to the end of a stage that trains one"
    )


def _models(storage: Storage) -> list[str]:
    """Names of a run's models that are complete."""
    try:
        paths = [path.split("/") for path in storage.list("models", recursive=True)]
    except OSError as error:
        raise UserError(f"{storage.uri('models')}: cannot be read: {error}") from None
    return sorted(parts[1] for parts in paths if len(parts) == 3 and parts[2] == "config.json")
