"""Learning curves: what they say of a training's end."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_pipeline.core.storage import Storage
from ray_pipeline.rundir.trainings import Curve


def step(number: int, epoch: int, loss: float, tokens: int) -> dict[str, float]:
    return {"step": number, "epoch": epoch, "cross_entropy": loss, "answer_tokens": tokens}


def test_the_training_loss_is_that_of_the_last_epoch_also_after_a_resume(tmp_path: Path) -> None:
    curve = Curve(Storage(str(tmp_path)), "curve.jsonl")
    assert curve.last_epoch() is None
    for line in (step(1, 0, 9.0, 5), step(2, 1, 3.0, 30), step(3, 1, 1.0, 10)):
        curve.add(line)
    curve.add({"step": 3, "validation_loss": 0.5})
    assert curve.last_epoch() == pytest.approx((3.0 * 30 + 1.0 * 10) / 40)
    curve.save()
    resumed = Curve(Storage(str(tmp_path)), "curve.jsonl")
    resumed.add(step(3, 1, 2.0, 10))  # repeated since the last checkpoint
    assert resumed.last_epoch() == pytest.approx((3.0 * 30 + 2.0 * 10) / 40)
