"""The trainings of an experiment: one cell for each subset, seed, learning rate and mode."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import orjson

from ray_pipeline.core.errors import RunError
from ray_pipeline.core.numbers import finite
from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.layout import CELLS, INDEX


@dataclass(frozen=True)
class Point:
    """An evaluation during a training.

    Attributes:
        tokens: that were learnt until then, repeated ones as often as they came.
        seconds: of training until then.
        loss: on the common validation rows, nats per token.
    """

    tokens: float
    seconds: float
    loss: float


@dataclass(frozen=True)
class Cell:
    """One training, as its record says.

    Attributes:
        subset: that it was trained on; a control's own name.
        of: the subset, for a control that it is the control of; else the same as ``subset``.
        mode: ``epochs`` (each subset's own number) or ``tokens`` (one budget for all).
        rows: of the subset.
        tokens: of these rows.
        curve: its finite evaluations in order.
        validation_loss: at the end; None where it is no finite number.
        test_loss: of the final weights on the common test rows; None where it is none.
        test_tokens: of these rows.
        parameters: of the model; None, as ``test_tokens``, where the training diverged.
        model: where the run keeps it; None: it does not.
        trained_as: the cell that is the same training and was trained in its place, or itself.
    """

    name: str
    subset: str
    of: str
    control: bool
    mode: str
    seed: int
    learning_rate: float
    rows: int
    tokens: int
    tokens_seen: int
    steps: int
    seconds: float
    parameters: int | None
    curve: tuple[Point, ...]
    validation_loss: float | None
    test_loss: float | None
    test_tokens: int | None
    model: str | None = None
    trained_as: str | None = None

    @property
    def diverged(self) -> bool:
        """Whether it ended without a loss that is a number."""
        return self.test_loss is None or self.validation_loss is None

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Cell:
        """Read a record.

        Raises:
            ValueError: it is none; the message names what is missing or wrong.
        """
        try:
            return cls(
                name=str(record["cell"]),
                subset=str(record["subset"]),
                of=str(record["of"]),
                control=bool(record["control"]),
                mode=str(record["mode"]),
                seed=int(record["seed"]),
                learning_rate=float(record["learning_rate"]),
                rows=int(record["rows"]),
                tokens=int(record["tokens"]),
                tokens_seen=int(record["tokens_seen"]),
                steps=int(record["steps"]),
                seconds=float(record["seconds"]),
                parameters=_count(record["parameters"]),
                curve=_curve(record["curve"]),
                validation_loss=_loss(record["validation_loss"]),
                test_loss=_loss(record["test_loss"]),
                test_tokens=_count(record["test_tokens"]),
                model=record.get("model"),
                trained_as=record.get("trained_as"),
            )
        except KeyError as error:
            raise ValueError(f"it has no {error.args[0]!r}") from None
        except (TypeError, AttributeError) as error:
            raise ValueError(f"a value has the wrong type: {error}") from None


def _loss(value: Any) -> float | None:
    """A loss, None where it is null or no finite number.

    Raises:
        ValueError: it is a text that is no number.
    """
    return None if value is None else finite(float(value))


def _count(value: Any) -> int | None:
    return None if value is None else int(value)


def _curve(points: Iterable[Mapping[str, Any]]) -> tuple[Point, ...]:
    found = [
        Point(float(point["tokens"]), float(point["seconds"]), loss)
        for point in points
        if (loss := _loss(point["loss"])) is not None
    ]
    return tuple(sorted(found, key=lambda point: point.tokens))


@dataclass(frozen=True)
class Group:
    """The cells that differ in nothing but their seed, none of them diverged.

    Attributes:
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
    """The groups of a mode, subsets before their controls, the smallest and so strictest first.

    Where several learning rates were tried, a subset has the one with the lowest mean validation
    loss: the test rows have no say in it. A rate at which more seeds came to their end goes first.
    """
    by_subset: dict[str, dict[float, list[Cell]]] = {}
    for cell in sorted(cells, key=lambda one: (one.rows, one.control, one.subset, one.seed)):
        if cell.mode == mode:
            by_subset.setdefault(cell.subset, {}).setdefault(cell.learning_rate, []).append(cell)
    found = (_group(rates) for rates in by_subset.values())
    return [group for group in found if group is not None]


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


# Reads the records that the trainings of an experiment left in the run directory.


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
