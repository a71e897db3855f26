"""The record of an experiment's cell: its file's exact format, and what is read from it."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from ray_pipeline.core.storage import Storage
from ray_pipeline.evaluate.experiment.cells import (
    Cell,
    CellPlan,
    Point,
    find_cell,
    read_cell,
    read_cells,
    write_cell,
)

# As the version before wrote them, when what writes and what reads a record were two classes.
FINISHED = """{
  "cell": "few.epochs.seed1.lr0.001",
  "subset": "few",
  "of": "few",
  "control": false,
  "mode": "epochs",
  "seed": 1,
  "learning_rate": 0.001,
  "rows": 8,
  "tokens": 98,
  "tokens_seen": 196,
  "steps": 4,
  "seconds": 0.122,
  "parameters": 27232,
  "curve": [
    {
      "step": 2,
      "tokens": 98,
      "seconds": 0.073,
      "loss": 3.0797982649369673
    },
    {
      "step": 4,
      "tokens": 196,
      "seconds": 0.122,
      "loss": 3.087548342618075
    }
  ],
  "validation_loss": 3.087548342618075,
  "test_loss": 3.177464803059896,
  "test_tokens": 27,
  "model": "models/few.epochs.seed1.lr0.001",
  "diverged": null,
  "trained_as": "few.epochs.seed1.lr0.001",
  "digest": "a3770ca3f2c46632e98e38d83da5b958"
}"""
DIVERGED = """{
  "cell": "few-random.epochs.seed2.lr0.001",
  "subset": "few-random",
  "of": "few",
  "control": true,
  "mode": "epochs",
  "seed": 2,
  "learning_rate": 0.001,
  "rows": 8,
  "tokens": 87,
  "tokens_seen": 0,
  "steps": 0,
  "seconds": 0.0,
  "parameters": null,
  "curve": [],
  "validation_loss": null,
  "test_loss": null,
  "test_tokens": null,
  "model": null,
  "diverged": "step 3: loss nan",
  "trained_as": "few-random.epochs.seed2.lr0.001",
  "digest": "7931a410ff9c55fff8cc555e00d92072"
}"""


@pytest.mark.parametrize("text", [FINISHED, DIVERGED])
def test_a_record_of_an_earlier_version_is_read_and_written_to_the_byte(
    text: str, tmp_path: Path
) -> None:
    storage, cell = Storage(str(tmp_path)), Cell.from_json(orjson.loads(text))
    write_cell(storage, cell)
    assert (tmp_path / cell.path).read_text() == text
    assert read_cell(storage, cell.path) == cell
    assert read_cells(storage) == [cell]


def test_what_a_record_says_is_read() -> None:
    finished, diverged = (Cell.from_json(orjson.loads(text)) for text in (FINISHED, DIVERGED))
    assert (finished.name, finished.of, finished.control) == (
        "few.epochs.seed1.lr0.001",
        "few",
        False,
    )
    assert finished.curve == (
        Point(98.0, 0.073, 3.0797982649369673),
        Point(196.0, 0.122, 3.087548342618075),
    )
    assert not finished.diverged and finished.digest == "a3770ca3f2c46632e98e38d83da5b958"
    assert (diverged.of, diverged.control, diverged.diverged) == ("few", True, True)
    assert diverged.diverged_because == "step 3: loss nan" and diverged.curve == ()


def test_losses_that_are_not_finite_are_left_out_of_the_curve() -> None:
    record = orjson.loads(FINISHED)
    record["curve"].append({"step": 6, "tokens": 294, "seconds": 0.2, "loss": None})
    cell = Cell.from_json(record | {"test_loss": float("nan")})
    assert len(cell.evaluations) == 3 and len(cell.curve) == 2
    assert cell.test_loss is None and cell.diverged
    assert cell.to_json()["curve"] == record["curve"]


def test_the_record_of_another_training_is_not_found(tmp_path: Path) -> None:
    storage, cell = Storage(str(tmp_path)), Cell.from_json(orjson.loads(FINISHED))
    plan = CellPlan("few", "epochs", 1, 0.001, 8, 98)
    assert find_cell(storage, plan, str(cell.digest)) is None
    write_cell(storage, cell)
    assert find_cell(storage, plan, str(cell.digest)) == cell
    assert find_cell(storage, plan, "another") is None
