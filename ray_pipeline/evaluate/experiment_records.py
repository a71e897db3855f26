"""Reads the records that the trainings of an experiment left in the run directory."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import orjson

from ray_pipeline.errors import RunError
from ray_pipeline.evaluate.experiment_cells import Cell
from ray_pipeline.experiment import CELLS, INDEX
from ray_pipeline.storage import Storage


def read_cells(storage: Storage) -> list[Cell]:
    """The cells of the run's experiment, by name.

    Only those that the experiment's list names are read, where there is one: others may lie beside
    them.

    Raises:
        RunError: there are none, one is missing, or one cannot be read; the message names it.
    """
    there = {
        path.rpartition("/")[2].removesuffix(".json"): path
        for path in storage.list(CELLS)
        if path.endswith(".json")
    }
    wanted = _listed(storage)
    if missing := sorted(set(wanted or ()) - there.keys()):
        raise RunError(
            f"{storage.uri(CELLS)}: the record of {missing[0]} is missing: delete {INDEX}, and "
            "start the run again to train it"
        )
    paths = [path for name, path in sorted(there.items()) if wanted is None or name in wanted]
    if not paths:
        raise RunError(f"{storage.uri(CELLS)}: no training has left a record there")
    return [_cell(storage, path) for path in paths]


def _listed(storage: Storage) -> Collection[str] | None:
    try:
        index: Any = orjson.loads(storage.read_bytes(INDEX) or b"null")
    except orjson.JSONDecodeError as error:
        raise RunError(f"{storage.uri(INDEX)}: not JSON: {error}") from None
    if not isinstance(index, list):
        return None
    return [str(one["cell"]) for one in index if isinstance(one, dict) and "cell" in one]


def _cell(storage: Storage, path: str) -> Cell:
    try:
        return Cell.of_record(orjson.loads(storage.read_bytes(path) or b""))
    except ValueError as error:  # JSON's own is one, too
        raise RunError(
            f"{storage.uri(path)}: not the record of a training: {error}. Delete it, and start the "
            "run again to train it anew"
        ) from None
