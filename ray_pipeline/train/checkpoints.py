"""Checkpoints of a training run: one file each, put under its name in one step."""

from __future__ import annotations

import pickle
import re
from typing import Any

import torch

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.unreadable import tell

#: What torch raises for a file that is empty, cut off, or full of something else.
_TORN = (RuntimeError, EOFError, ValueError, pickle.UnpicklingError)
_NAME = re.compile(r"step-(\d+)\.pt$")


class Checkpoints:
    """Files ``step-00000120.pt`` in a folder of a run, local or on object storage.

    Args:
        storage: where the run lies.
        folder: of the checkpoints, relative to it.
        keep: number of the newest checkpoints that are kept, besides the best one.
    """

    def __init__(self, storage: Storage, folder: str = "checkpoints", keep: int = 2) -> None:
        self.storage = storage
        self.folder = folder
        self.keep = keep

    def save(self, step: int, state: dict[str, Any], best: int | None = None) -> None:
        """Write a checkpoint, then delete those that are neither among the newest nor the best.

        Args:
            step: steps taken until then.
            state: tensors and plain data.
            best: step of the checkpoint that is kept whatever its age.

        Raises:
            RunError: it could not be written; the earlier ones are untouched.
        """
        with self.storage.writer(self._path(step)) as file:
            torch.save(state, file)
        for old in self.steps()[: -self.keep]:
            if old not in (best, step):
                self.storage.delete(self._path(old))

    def steps(self) -> list[int]:
        """Steps of the stored checkpoints, in order."""
        matches = (_NAME.search(path) for path in self.storage.list(self.folder))
        return sorted(int(match[1]) for match in matches if match)

    def latest(self) -> dict[str, Any] | None:
        """The newest complete checkpoint (a power loss may tear one); None if there is none."""
        for step in reversed(self.steps()):
            try:
                return self._read(step)
            except _TORN as error:
                tell(self.storage, self._path(step), error)
        return None

    def load(self, step: int) -> dict[str, Any]:
        """A checkpoint by its step.

        Raises:
            RunError: it is missing, or torn.
        """
        try:
            return self._read(step)
        except (*_TORN, OSError) as error:
            path = self.storage.uri(self._path(step))
            raise RunError(f"checkpoint {path} cannot be read: {error}") from error

    def _path(self, step: int) -> str:
        return f"{self.folder}/step-{step:08d}.pt"

    def _read(self, step: int) -> dict[str, Any]:
        with self.storage.open(self._path(step)) as file:
            return torch.load(file, map_location="cpu", weights_only=True)
