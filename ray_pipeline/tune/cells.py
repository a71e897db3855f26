"""The cells of an experiment, and the record that each one leaves in the run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from ray_pipeline.core.hashing import fingerprint
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.curve import read_curve
from ray_pipeline.rundir.layout import CELLS, CONTROL
from ray_pipeline.train.job import TrainingJob, checkpoints_folder

Mode = Literal["epochs", "tokens"]


@dataclass(frozen=True)
class Cell:
    """One training of the experiment.

    Attributes:
        subset: what it is trained on: a subset, or the random control of one.
        mode: whether it is trained for its subset's epochs, or for a number of tokens.
        seed: of its weights, of the order of its rows and of dropout.
        learning_rate: at its highest.
        rows: of the subset.
        tokens: of these rows.
        to_see: tokens that it sees in its training.
        job: the training.
        identity: what else it depends on, as plain data.
    """

    subset: str
    mode: Mode
    seed: int
    learning_rate: float
    rows: int
    tokens: int
    to_see: int
    job: TrainingJob
    identity: Any

    @property
    def of(self) -> str:
        """The subset, or that of which this is the control."""
        return self.subset.removesuffix(CONTROL)

    @property
    def name(self) -> str:
        """Name in the experiment and of the record's file."""
        return cell_name(self.subset, self.mode, self.seed, self.learning_rate)

    @property
    def record_path(self) -> str:
        """The record's file, relative to the run directory."""
        return f"{CELLS}/{self.name}.json"

    @property
    def digest(self) -> str:
        """Identity of the training: cells with the same one are one training."""
        job = self.job
        pace = [job.pace.budget_tokens, job.pace.evaluations, job.pace.warmup_share]
        assert job.model.scratch is not None
        return fingerprint(
            [
                self.identity,
                job.model.scratch.identity(),
                job.loop.identity(),
                job.batches.identity(),
                pace,
            ]
        )

    def record(self) -> dict[str, Any] | None:
        """What came of it, where it is finished and its model is kept if it is to be."""
        raw = self.job.storage.read_bytes(self.record_path)
        record: dict[str, Any] = orjson.loads(raw or b"{}")
        if record.get("digest") != self.digest:
            return None
        lacks_model = record["model"] is None and record["diverged"] is None
        return None if lacks_model and self.job.name is not None else record

    def keep(self, record: dict[str, Any]) -> None:
        """Put a record on storage, under this cell's name."""
        about = {
            "cell": self.name,
            "subset": self.subset,
            "of": self.of,
            "control": self.of != self.subset,
            "mode": self.mode,
            "seed": self.seed,
            "learning_rate": self.learning_rate,
            "rows": self.rows,
            "tokens": self.tokens,
        }
        data = orjson.dumps({**about, **record}, option=orjson.OPT_INDENT_2)
        self.job.storage.write_bytes(self.record_path, data)

    def finish(self, diverged: str | None = None) -> None:
        """Write down what the training left: its curve, and its result unless it diverged."""
        job, result = self.job, self.job.finished() or {}
        if diverged is not None:
            job.storage.delete_folder(checkpoints_folder(job))
        steps, curve = _curve(job.storage, job.curve)
        kept = diverged is None and job.name is not None
        self.keep(
            {
                **steps,
                "parameters": result.get("parameters"),
                "curve": curve,
                "validation_loss": curve[-1]["loss"] if curve and not diverged else None,
                "test_loss": result.get("test_loss"),
                "test_tokens": result.get("test_tokens"),
                "model": f"models/{job.name}" if kept else None,
                "diverged": diverged,
                "trained_as": self.name,
                "digest": self.digest,
            }
        )


def cell_name(subset: str, mode: Mode, seed: int, learning_rate: float) -> str:
    """Name of a cell."""
    return f"{subset}.{mode}.seed{seed}.lr{learning_rate:g}"


def different(cells: Iterable[Cell]) -> list[Cell]:
    """One cell of each training, the one that comes first; the largest training first."""
    first: dict[str, Cell] = {}
    for cell in cells:
        first.setdefault(cell.digest, cell)
    return sorted(first.values(), key=lambda cell: -cell.to_see)


def share_records(cells: Sequence[Cell]) -> None:
    """Give cells that are the same training the record of the one that was trained."""
    trained = {cell.digest: cell.record() for cell in different(cells)}
    for cell in cells:
        record = trained[cell.digest]
        if record is not None and cell.record() is None:
            cell.keep({name: record[name] for name in _SHARED})


_SHARED = (
    "tokens_seen",
    "steps",
    "seconds",
    "parameters",
    "curve",
    "validation_loss",
    "test_loss",
    "test_tokens",
    "model",
    "diverged",
    "trained_as",
    "digest",
)


def forget_others(storage: Storage, cells: Sequence[Cell]) -> None:
    """Delete records of cells that this experiment has not, or no longer has as they are."""
    own = {cell.record_path: cell for cell in cells}
    for path in list(storage.list(CELLS)):
        if path not in own or own[path].record() is None:
            storage.delete(path)


def _curve(storage: Storage, path: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Sums over a curve's steps, and its evaluations with the sums up to each."""
    steps, tokens, seconds, curve = 0, 0, 0.0, []
    for line in read_curve(storage, path):
        if (loss := line.get("validation_loss")) is None and "tokens" in line:
            steps, tokens = line["step"], tokens + line["tokens"]
            seconds += line["seconds"]
        else:
            point = {"step": line["step"], "tokens": tokens, "seconds": round(seconds, 3)}
            curve.append({**point, "loss": loss})
    return {"tokens_seen": tokens, "steps": steps, "seconds": round(seconds, 3)}, curve
