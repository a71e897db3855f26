"""The trainings of an experiment: one cell for each subset, mode, seed and learning rate.

A cell's record is one JSON file in the run directory. `Cell` is that record: the experiment writes
it, and whatever analyses or shows the experiment reads it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal

import orjson

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.numbers import finite
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.layout import CELLS, INDEX, subset_and_draw
from ray_pipeline.rundir.unreadable import read_json

Mode = Literal["epochs", "tokens"]


@dataclass(frozen=True)
class CellPlan:
    """A training of the experiment, before it is run.

    Attributes:
        subset: the subset that it is trained on, or the random control of one.
        mode: ``epochs`` (each subset has its own number of epochs) or ``tokens`` (all subsets have
            one budget of tokens, spent in one number of updates).
        seed: of the weights, of the order of rows and of dropout.
        learning_rate: the highest one of the schedule.
        rows: rows of the subset.
        tokens: tokens of these rows.
    """

    subset: str
    mode: str
    seed: int
    learning_rate: float
    rows: int
    tokens: int

    @property
    def name(self) -> str:
        """The cell's name in the experiment, and that of its record's file."""
        return f"{self.subset}.{self.mode}.seed{self.seed}.lr{self.learning_rate:g}"

    @property
    def of(self) -> str:
        """The subset; for a control, the subset that it is the control of."""
        return subset_and_draw(self.subset)[0]

    @property
    def control(self) -> bool:
        """Whether it is trained on random rows, as many as the subset `of` has."""
        return self.of != self.subset

    @property
    def path(self) -> str:
        """The record's file, relative to the run directory."""
        return f"{CELLS}/{self.name}.json"


@dataclass(frozen=True)
class Evaluation:
    """An evaluation during a training, as recorded.

    Attributes:
        step: steps taken until then.
        tokens: tokens seen until then; repeated ones count each time.
        seconds: of training until then.
        loss: on the common validation rows, nats per token; None where it is not finite.
    """

    step: int
    tokens: int
    seconds: float
    loss: float | None


@dataclass(frozen=True)
class Point:
    """A point of a learning curve: an `Evaluation` with a finite loss, or a mean of several."""

    tokens: float
    seconds: float
    loss: float


@dataclass(frozen=True)
class Cell(CellPlan):
    """One training of the experiment and what came of it.

    Attributes:
        tokens_seen: tokens that it was trained on; repeated ones count each time.
        steps: optimizer steps.
        seconds: of training, without evaluations.
        parameters: of the model; None, as ``test_tokens``, where the training diverged.
        evaluations: in the order of the training.
        validation_loss: at the end; None where it is not finite.
        test_loss: of the final weights on the common test rows; None where it is not finite.
        test_tokens: tokens of these rows.
        model: folder in the run directory that keeps the model; None: it is not kept.
        diverged_because: why the training was stopped; None where it came to its end.
        trained_as: name of the cell that was trained: another one where both are the same training.
        digest: identity of the training: cells with the same digest are one training.
        schedule: shape of the learning rate after the warm-up; None in records of before version
            2 of the stage that writes them, as ``warmup_steps``.
        warmup_steps: steps until the highest learning rate.
    """

    tokens_seen: int
    steps: int
    seconds: float
    parameters: int | None
    evaluations: tuple[Evaluation, ...]
    validation_loss: float | None
    test_loss: float | None
    test_tokens: int | None
    model: str | None = None
    diverged_because: str | None = None
    trained_as: str | None = None
    digest: str | None = None
    schedule: str | None = None
    warmup_steps: int | None = None

    @property
    def diverged(self) -> bool:
        """Whether it ended without a finite loss."""
        return self.test_loss is None or self.validation_loss is None

    @property
    def curve(self) -> tuple[Point, ...]:
        """The evaluations with a finite loss, by tokens."""
        points = [
            Point(float(evaluation.tokens), evaluation.seconds, evaluation.loss)
            for evaluation in self.evaluations
            if evaluation.loss is not None
        ]
        return tuple(sorted(points, key=lambda point: point.tokens))

    def to_json(self) -> dict[str, Any]:
        """The record, as plain data."""
        schedule = {"schedule": self.schedule, "warmup_steps": self.warmup_steps}
        return {
            "cell": self.name,
            "subset": self.subset,
            "of": self.of,
            "control": self.control,
            "mode": self.mode,
            "seed": self.seed,
            "learning_rate": self.learning_rate,
            "rows": self.rows,
            "tokens": self.tokens,
            "tokens_seen": self.tokens_seen,
            "steps": self.steps,
            "seconds": self.seconds,
            "parameters": self.parameters,
            "curve": [asdict(evaluation) for evaluation in self.evaluations],
            "validation_loss": self.validation_loss,
            "test_loss": self.test_loss,
            "test_tokens": self.test_tokens,
            "model": self.model,
            "diverged": self.diverged_because,
            "trained_as": self.trained_as,
            "digest": self.digest,
            **(schedule if self.schedule is not None else {}),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Cell:
        """Read a record.

        Raises:
            ValueError: it is not a record; the message names what is missing or wrong.
        """
        try:
            return cls(
                subset=str(record["subset"]),
                mode=str(record["mode"]),
                seed=int(record["seed"]),
                learning_rate=float(record["learning_rate"]),
                rows=int(record["rows"]),
                tokens=int(record["tokens"]),
                tokens_seen=int(record["tokens_seen"]),
                steps=int(record["steps"]),
                seconds=float(record["seconds"]),
                parameters=_count(record["parameters"]),
                evaluations=tuple(_evaluation(point) for point in record["curve"]),
                validation_loss=_loss(record["validation_loss"]),
                test_loss=_loss(record["test_loss"]),
                test_tokens=_count(record["test_tokens"]),
                model=record.get("model"),
                diverged_because=record.get("diverged"),
                trained_as=record.get("trained_as"),
                digest=record.get("digest"),
                schedule=record.get("schedule"),
                warmup_steps=_count(record.get("warmup_steps")),
            )
        except KeyError as error:
            raise ValueError(f"it has no {error.args[0]!r}") from None
        except (TypeError, AttributeError) as error:
            raise ValueError(f"a value has the wrong type: {error}") from None


def _evaluation(point: Mapping[str, Any]) -> Evaluation:
    return Evaluation(
        int(point["step"]), int(point["tokens"]), float(point["seconds"]), _loss(point["loss"])
    )


def _loss(value: Any) -> float | None:
    """A loss, None where it is null or not finite.

    Raises:
        ValueError: it is a text that is no number.
    """
    return None if value is None else finite(float(value))


def _count(value: Any) -> int | None:
    return None if value is None else int(value)


@dataclass(frozen=True)
class Group:
    """The cells of a subset and mode that differ in their seed alone; none of them diverged.

    Attributes:
        cells: one for each seed, all at the chosen learning rate.
        tried: learning rates that the subset was trained with, the chosen one among them.
        lost: seeds that diverged at the chosen one.
    """

    cells: tuple[Cell, ...]
    tried: tuple[float, ...]
    lost: tuple[int, ...]

    @property
    def first(self) -> Cell:
        """Any of them, for what they have in common."""
        return self.cells[0]

    @property
    def losses(self) -> dict[int, float]:
        """Test loss of each seed."""
        return {cell.seed: cell.test_loss for cell in self.cells if cell.test_loss is not None}


def groups(cells: Sequence[Cell], mode: str) -> list[Group]:
    """The groups of a mode, smallest subset first, each subset before its control.

    Where several learning rates were tried, each subset gets the one at which the fewest seeds
    diverged and, among those, the one with the lowest mean validation loss. The test rows play no
    part in that choice.
    """
    by_subset: dict[str, dict[float, list[Cell]]] = {}
    for cell in sorted(cells, key=lambda cell: (cell.rows, cell.control, cell.subset, cell.seed)):
        if cell.mode == mode:
            by_subset.setdefault(cell.subset, {}).setdefault(cell.learning_rate, []).append(cell)
    made = (_group(rates) for rates in by_subset.values())
    return [group for group in made if group is not None]


def _group(rates: Mapping[float, Sequence[Cell]]) -> Group | None:
    ended = {rate: [cell for cell in cells if not cell.diverged] for rate, cells in rates.items()}
    rate = min(ended, key=lambda rate: (-len(ended[rate]), _validation(ended[rate]), rate))
    if not ended[rate]:
        return None
    lost = tuple(sorted(cell.seed for cell in rates[rate] if cell.diverged))
    return Group(tuple(ended[rate]), tuple(sorted(rates)), lost)


def _validation(cells: Sequence[Cell]) -> float:
    losses = [cell.validation_loss for cell in cells if cell.validation_loss is not None]
    return fmean(losses) if losses else math.inf


# The records in the run directory.


def write_cell(storage: Storage, cell: Cell) -> None:
    """Write a cell's record."""
    data = orjson.dumps(cell.to_json(), option=orjson.OPT_INDENT_2)
    storage.write_bytes(cell.path, data)


def read_cell(storage: Storage, path: str) -> Cell:
    """Read a cell's record.

    Raises:
        RunError: it is not there, or it is not a record.
    """
    try:
        return Cell.from_json(orjson.loads(storage.read_bytes(path) or b""))
    except ValueError as error:  # orjson's error is a ValueError, too
        raise RunError(
            f"{storage.uri(path)}: not the record of a training: {error}. Delete it, and start the "
            "run again to train it anew"
        ) from None


def find_cell(storage: Storage, plan: CellPlan, digest: str) -> Cell | None:
    """The record of a planned training; None where there is none, or that of another training."""
    record = read_json(storage, plan.path)
    if not isinstance(record, dict) or record.get("digest") != digest:
        return None
    return Cell.from_json(record)


def read_cells(storage: Storage) -> list[Cell]:
    """The cells of the run's experiment, by name.

    Where the experiment has left its list of cells, only those that it names are read: records of
    others may lie beside them.

    Raises:
        RunError: there are none, one is missing, or one cannot be read; the message names it.
    """
    paths = {
        path.rpartition("/")[2].removesuffix(".json"): path
        for path in storage.list(CELLS)
        if path.endswith(".json")
    }
    listed = _listed(storage)
    if missing := sorted(set(listed or ()) - paths.keys()):
        raise RunError(
            f"{storage.uri(CELLS)}: the record of {missing[0]} is missing: delete {INDEX}, and "
            "start the run again to train it"
        )
    wanted = [path for name, path in sorted(paths.items()) if listed is None or name in listed]
    if not wanted:
        raise RunError(f"{storage.uri(CELLS)}: no training has left a record there")
    return [read_cell(storage, path) for path in wanted]


def _listed(storage: Storage) -> Collection[str] | None:
    """Names of the cells in the experiment's list; None where there is no list."""
    try:
        index: Any = orjson.loads(storage.read_bytes(INDEX) or b"null")
    except orjson.JSONDecodeError as error:
        raise RunError(
            f"{storage.uri(INDEX)}: not JSON: {error}. Delete it, and run again"
        ) from None
    if not isinstance(index, list):
        return None
    return [str(entry["cell"]) for entry in index if isinstance(entry, dict) and "cell" in entry]
